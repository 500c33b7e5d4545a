"""From checkpoints to a worked example, as a researcher goes: analyze, sweep, intervene, evaluate, show.

The models are a Qwen3 of 12 layers in bf16 shards that this file writes: a base, and two runs of three checkpoints
whose updates are as small as those of training at a learning rate of 1e-6. Every command is that of the documentation.
"""

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from training.tiny_models import write_tiny_llama, write_tiny_qwen3
from transformers import AutoModelForCausalLM

from effopd.cli import main
from effopd.sweeps import plan_cells, read_spec

STEPS, NUM_LAYERS, NUM_CELLS, NUM_PROBLEMS = (10, 50, 100), 12, 42, 10
PRESETS = ("update_norm", "sliding_window", "top_bottom", "norm_matching")


def write_run(base: Path, run: Path, seed: int) -> None:
    """Checkpoints on a straight way from the base, with a little noise, in shards as the base has them."""
    for index, step in enumerate(STEPS):
        model = AutoModelForCausalLM.from_pretrained(base, dtype="auto")
        way, noise = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(100 * seed + index)
        with torch.no_grad():
            for parameter in model.parameters():
                update = step / STEPS[-1] * torch.randn(parameter.shape, generator=way)
                update += 0.1 * torch.randn(parameter.shape, generator=noise)
                parameter.copy_((parameter.float() + 1e-4 * update).to(parameter.dtype))
        out = run / f"checkpoint-{step}"
        model.save_pretrained(out, max_shard_size="15KB")
        for path in (*base.glob("tokenizer*"), base / "chat_template.jinja"):
            shutil.copy(path, out)


def write_models(root: Path) -> None:
    """A base, a teacher of another architecture with the same tokenizer, two runs, problems, and a specification."""
    base = write_tiny_qwen3(root / "base", num_layers=NUM_LAYERS)
    write_tiny_llama(root / "teacher")
    assert len(list(base.glob("*.safetensors"))) > 10
    for seed, run in enumerate(("opd", "rl"), start=1):
        write_run(base, root / run, seed)
    rows = [{"prompt": f"What is {n} times 8?", "answer": str(8 * n)} for n in range(NUM_PROBLEMS)]
    (root / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {"name": "sums", "task": str(root / "problems.jsonl"), "chat": True, "system_prompt": "Be brief."}
    spec = {
        "base": str(root / "base"),
        "teacher": str(root / "teacher"),
        "root": str(root),
        "runs": {"OPD": "opd", "RL": "rl"},
        "tasks": [task | {"max_new_tokens": 16}],
        "sweeps": [
            {"preset": "update_norm", "values": [0, 0.5, 1, 1.5]},
            {"preset": "sliding_window", "values": [0, 6, 11]},
            {"preset": "top_bottom", "values": [1, 10, 50]},
            {"preset": "norm_matching", "values": [0.5]},
        ],
    }
    (root / "sweep.yaml").write_text(yaml.safe_dump(spec))


def effopd(*arguments: object) -> None:
    assert main(list(map(str, arguments))) == 0


def lines(path: Path) -> list[dict[str, Any]]:
    text = gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_text()
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.slow
def test_from_checkpoints_to_a_worked_example(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_models(tmp_path)
    base, spec, swept = tmp_path / "base", tmp_path / "sweep.yaml", tmp_path / "swept"
    asked = ("--task", tmp_path / "problems.jsonl", "--chat", "--system-prompt", "Be brief.", "--max-new-tokens", 16)
    runs = ("--run", f"OPD={tmp_path / 'opd'}", "--run", f"RL={tmp_path / 'rl'}")

    # What the base writes, by whose tokens the embedding shift is measured; then the analysis of the weights.
    effopd("evaluate", base, *asked, "--out", tmp_path / "written")
    effopd(
        "analyze", "--base", base, *runs, "--text", tmp_path / "written" / "examples.jsonl", "--out", tmp_path / "an"
    )
    shifts = pd.read_parquet(tmp_path / "an" / "embeddings.parquet")
    assert shifts["num_tokens"].between(2, 299).all()

    # The sweep: a pilot of one cell, a part, and the rest.
    capsys.readouterr()
    command = ("sweep", spec, "--out", swept, "--workers", 1)
    effopd(*command, "--limit-cells", 1)
    said = capsys.readouterr().out
    assert f"{NUM_CELLS} cells: {NUM_CELLS} x {NUM_PROBLEMS} = {NUM_CELLS * NUM_PROBLEMS} completions of sums" in said
    effopd(*command, "--limit-cells", sum(cell.deciding for cell in plan_cells(read_spec(spec)).cells) - 1)
    assert "as finished cells took" in capsys.readouterr().out
    assert {path.stem for path in (swept / "figures").glob("*.svg")} == set(PRESETS)
    effopd(*command)
    rows = pd.read_parquet(swept / "results.parquet")
    assert rows["cell"].nunique() == NUM_CELLS and not (swept / "failed.jsonl").exists()
    assert rows["num_problems"].eq(NUM_PROBLEMS).all() and rows["update_norm"].notna().all()
    assert rows["relative_error"].notna().all() and rows["relative_error"].le(0.01).all()
    for cell in rows["cell"].unique():
        assert len(lines(swept / "completions" / f"{cell}.jsonl.gz")) == NUM_PROBLEMS
    (problem, *_) = lines(next((swept / "problems").iterdir()))
    assert [message["role"] for message in problem["prompt"]] == ["system", "user"]
    effopd("analyze", "--base", base, *runs, "--sweep", swept, "--out", tmp_path / "an-sweep")
    assert "Accuracy against the norm of the update" in (tmp_path / "an-sweep" / "report.html").read_text()

    # One of the sweep's models, written to disk: it is the one that the sweep evaluated.
    made, final = tmp_path / "half", tmp_path / "opd" / "checkpoint-100"
    effopd("intervene", "scale", "--alpha", 0.5, "--base", base, "--trained", final, "--out", made)
    record = json.loads((made / "intervention.json").read_text())
    (half,) = rows[(rows["run"] == "OPD") & (rows["kind"] == "scale") & (rows["value"] == 0.5)].to_dict("records")
    assert record["realised_norm"]["total"] == pytest.approx(half["update_norm"], rel=1e-6)
    assert record["relative_error"]["total"] <= 0.01

    # Its evaluation, which says the same as the sweep's cell; then the teacher's, and all side by side.
    effopd("evaluate", made, *asked, "--out", tmp_path / "evaluated")
    written = {row["prompt"]: row["completion"] for row in lines(tmp_path / "evaluated" / "examples.jsonl")}
    kept = {row["prompt"]: row["completion"] for row in lines(swept / "completions" / f"{half['cell']}.jsonl.gz")}
    assert written == kept
    effopd("evaluate", tmp_path / "teacher", *asked, "--out", tmp_path / "taught")
    effopd("show", swept, f"half={tmp_path / 'evaluated'}", f"teacher={tmp_path / 'taught'}", "--limit", 3)
    page = (swept / "completions.html").read_text()
    models = ["base"]
    for run in ("OPD", "RL"):
        models += [f"{run}: early (step 10)", f"{run}: early, with the final norm", f"{run}: final"]
    for model in [*models, "half", "teacher"]:
        assert page.count(f"<h3>{model}</h3>") == 3
    assert "Traceback" not in capsys.readouterr().err
