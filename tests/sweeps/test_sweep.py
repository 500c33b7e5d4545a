import json
import math
import shutil
from pathlib import Path
from typing import get_args

import pytest
import torch
import yaml
from checkpoints.tiny_pairs import tiny_mixtral, write_tiny, write_trained
from safetensors.torch import load_file, save_file
from sweeps.short_runs import PAPER, make, rows, write_bfloat16_run
from transformers import AutoModelForCausalLM, AutoTokenizer

from effopd import evaluation
from effopd.checkpoints import open_pair
from effopd.cli import main
from effopd.errors import CheckpointError, ConfigurationError, UnsupportedError
from effopd.interventions import Scale, intervene
from effopd.parameters import ModuleKind
from effopd.sweeps import SweepSpec, plan_cells, sweep
from effopd.sweeps.results import SCHEMA
from effopd.world import base_dir, teacher_dir

BAD = {"preset": "intervention", "name": "bad", "kind": "window", "vary": "centre", "values": [0, 99]}


def test_every_cell_has_its_rows(whole: tuple[SweepSpec, Path]) -> None:
    spec, out = whole
    found, cells = rows(out), plan_cells(spec).cells
    assert list(found.columns) == SCHEMA.names
    assert len(found) == sum(len(cell.uses) for cell in cells)
    assert set(found["cell"]) == {cell.key for cell in cells}
    assert not list((out / "cells").iterdir())
    not_all = {"kl_per_token", "kl_low", "kl_high", "kl_per_sequence", "layer_norm"}
    absent = [name for name in found.columns if name.startswith("other")]
    complete = found.drop(columns=[*not_all, *absent])
    assert complete.notna().all().all() and found[absent].isna().all().all()
    assert (found["low"] <= found["mean"]).all() and (found["mean"] <= found["high"]).all()
    assert (found["num_problems"] == 4).all() and (found["attempt"] == 1).all()


def test_norms_and_divergences_are_those_of_the_model_that_was_evaluated(whole: tuple[SweepSpec, Path]) -> None:
    found = rows(whole[1])
    scaled = found[found["kind"] == "scale"]
    assert (scaled["x"] == scaled["update_norm"]).all()
    full = scaled[scaled["value"] == 1].set_index(["run", "training_seed", "seed"])["update_norm"]
    for key, group in scaled.groupby(["run", "training_seed", "seed"]):
        assert group["update_norm"].to_list() == pytest.approx((group["value"] * full[key]).to_list(), rel=1e-6)
    matched = found[found["kind"].isin(["norm-match", "beta", "checkpoint"]) & (found["sweep"] == "norm_matching")]
    assert matched["kl_per_token"].notna().all() and (matched["kl_low"] <= matched["kl_high"]).all()
    final_norms = found[found["kind"] == "trained"].groupby(["run", "training_seed"])["update_norm"].first()
    for key, group in found[found["kind"] == "norm-match"].groupby(["run", "training_seed"]):
        assert group["update_norm"].to_list() == pytest.approx([final_norms[key]] * len(group), rel=1e-5)
    for _, tops in found[found["kind"] == "top"].groupby("training_seed"):
        assert tops["update_norm"].to_list() == pytest.approx([tops["update_norm"].iloc[0]] * len(tops), rel=1e-5)
    windows = found[found["kind"].isin(["mlp", "attention"])]
    assert windows["layer_norm"].gt(0).all() and found["layer_norm"].notna().sum() == len(windows)


def test_a_cell_is_what_evaluating_the_written_model_gives(whole: tuple[SweepSpec, Path], root: Path) -> None:
    spec, _ = whole
    out = root.parent / "halved"
    intervene(base_dir(), root / "opd-1" / "checkpoint-20", [Scale(1.5)], out)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(out), AutoTokenizer.from_pretrained(out)
    expected = evaluation.evaluate(model, tokenizer, evaluation.load_task("world", limit=4), seed=1)
    found = rows(whole[1])
    (row,) = found[
        (found["kind"] == "scale") & (found["value"] == 1.5) & (found["training_seed"] == 1) & (found["seed"] == 1)
    ].to_dict("records")
    assert (row["mean"], row["low"], row["high"]) == (expected.mean, *expected.interval)
    assert spec.seeds == (0, 1)


def test_every_row_tells_the_intended_and_the_realised_update(whole: tuple[SweepSpec, Path]) -> None:
    found = rows(whole[1])
    assert (found["dtype"] == "float32").all() and found["changed_fraction"].between(0.9, 1).all()
    assert (found["relative_error"] < 1e-3).all()
    assert found["intended_norm"].to_list() == pytest.approx(found["update_norm"].to_list(), rel=1e-5)
    kinds = [kind for kind in get_args(ModuleKind) if found[f"{kind}_update_norm"].notna().any()]
    assert len(kinds) == 5
    for column in ("intended_norm", "update_norm"):
        squares = sum(found[f"{kind}_{column}"] ** 2 for kind in kinds)
        assert (squares**0.5).to_list() == pytest.approx(found[column].to_list())
    exact = found[found["kind"].isin(["base", "trained", "replace-embeddings", "mlp", "attention", "checkpoint"])]
    assert (exact["relative_error"] == 0).all() and len(exact) > 20
    assert (found[found["kind"] == "scale"]["relative_error"] > 0).any()


def test_float32_is_what_makes_a_bfloat16_sweep_mean_something(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same sweep twice, in float32 and as stored; what it evaluates is what `effopd intervene` writes."""
    write_bfloat16_run(tmp_path)
    sweeps = [
        {"preset": "intervention", "name": "halves", "kind": "scale", "vary": "alpha", "values": [0, 0.5, 1]},
        {"preset": "top_bottom", "values": [10]},
    ]
    found, common = {}, {"base": str(tmp_path / "base"), "runs": {"a": "run"}, "sweeps": sweeps, "limit": 4}
    for dtype in ("float32", "stored"):
        out = tmp_path / dtype
        assert sweep(make(tmp_path, dtype=dtype, **common), out, workers=1).failed == []
        found[dtype] = rows(out)
        said, text = capsys.readouterr().out, (out / "sweep.md").read_text()
        assert ("Warning: " in said) == ("those show rounding" in text) == (dtype == "stored")
        if dtype == "stored":
            assert said.count("Warning: ") == 1 and "held in bfloat16" in said and "Set `dtype: float32`" in said
    assert (found["float32"]["dtype"] == "float32").all() and (found["float32"]["relative_error"] < 1e-3).all()
    stored = found["stored"].set_index(["kind", "value"])
    assert (stored["dtype"] == "bfloat16").all()
    assert stored.loc[("scale", 0.5), "relative_error"] > 0.5 and stored.loc[("top", 10), "relative_error"] > 0.5
    assert stored.loc[[("scale", 0), ("scale", 1), ("base", 0), ("trained", 0)], "relative_error"].eq(0).all()
    shares = {frame["changed_fraction"].unique().item() for frame in found.values()}
    assert len(shares) == 1 and 0 < shares.pop() < 1
    with pytest.raises(CheckpointError, match=r"other settings: dtype 'float32' \(now 'stored'\)"):
        sweep(make(tmp_path, dtype="stored", **common), tmp_path / "float32", workers=1)
    record = intervene(tmp_path / "base", tmp_path / "run" / "checkpoint-10", [Scale(0.5)], tmp_path / "written")
    half = found["float32"].set_index(["kind", "value"]).loc[("scale", 0.5)]
    assert record["dtype"] == "float32"
    for ours, theirs in zip(("intended_norm", "update_norm"), ("intended_norm", "realised_norm"), strict=True):
        assert half[ours] == pytest.approx(record[theirs]["total"], rel=1e-12)
    model, tokenizer = (made.from_pretrained(tmp_path / "written") for made in (AutoModelForCausalLM, AutoTokenizer))
    assert half["mean"] == evaluation.evaluate(model, tokenizer, evaluation.load_task("world", limit=4)).mean


def test_figures_and_tables_are_written(whole: tuple[SweepSpec, Path]) -> None:
    _, out = whole
    names = {f"{name}{suffix}" for name in PAPER for suffix in (".svg", ".pdf", ".png")}
    assert {path.name for path in (out / "figures").iterdir()} == names
    text = (out / "sweep.md").read_text()
    assert "2 of 2" in text and "t-interval" in text


def test_a_teacher_with_another_tokenizer_is_refused_before_anything_is_done(root: Path, tmp_path: Path) -> None:
    """It has as many tokens, and as many rows for them, as the models that are compared with it."""
    teacher = shutil.copytree(teacher_dir(), tmp_path / "teacher")
    tokenizer = json.loads((teacher / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["1"], vocabulary["2"] = vocabulary["2"], vocabulary["1"]
    (teacher / "tokenizer.json").write_text(json.dumps(tokenizer))
    spec = make(root, teacher=str(teacher), sweeps=["norm_matching"])
    with pytest.raises(ConfigurationError, match=r"teacher .*, for the run OPD: .* 2 tokens different ids"):
        sweep(spec, tmp_path / "out", workers=1)
    assert not (tmp_path / "out").exists()
    assert sweep(make(root, teacher=str(teacher)), tmp_path / "out", workers=1).failed == []  # measures no divergence


def test_a_cell_that_fails_is_reported_and_costs_no_other(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, spec = tmp_path / "out", tmp_path / "spec.yaml"
    sweep_of = BAD | {"fields": {"module": "mlp"}}
    content = {"base": "world:base", "runs": {"a": "grpo-0"}, "tasks": ["world"], "limit": 4, "sweeps": [sweep_of]}
    spec.write_text(yaml.safe_dump(content))
    arguments = ["sweep", str(spec), "--root", str(root), "--out", str(out), "--workers", "1"]
    for _ in range(2):  # the second start tries it again
        assert main(arguments) == 1
        error = capsys.readouterr().err
        assert "1 of 2 cells failed" in error and "centre 99" in error and "failed.jsonl" in error
        assert '"attempt": 2' in (out / "failed.jsonl").read_text()
    assert rows(out)["value"].to_list() == [0]
    assert (out / "figures" / "bad.svg").exists()


def test_the_number_of_threads_is_left_alone(root: Path, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    sweep(make(root, runs={"a": "grpo-0"}), tmp_path / "out", workers=1)
    assert torch.get_num_threads() == threads


def test_what_cannot_work_is_refused_at_once(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match="worlds"):
        sweep(make(root, tasks=["worlds"]), tmp_path / "out", workers=1)
    with pytest.raises(ConfigurationError, match="gpus_per_worker: got -1"):
        sweep(make(root), tmp_path / "out", workers=1, gpus_per_worker=-1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigurationError, match=r"Got 1 GPUs per worker, and torch .* no CUDA device"):
        sweep(make(root, tasks=["worlds"]), tmp_path / "out", gpus_per_worker=1)
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(UnsupportedError, match=r"pip install 'effopd\[ray\]'.*--workers 1"):
        sweep(make(root), tmp_path / "out", workers=2)


def test_experts_that_are_fused_in_memory(tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(base_dir())
    base = write_tiny(tiny_mixtral(len(tokenizer)), tmp_path / "base")
    tokenizer.save_pretrained(base)
    write_trained(base, tmp_path / "run" / "checkpoint-1", seed=1)
    final = write_trained(base, tmp_path / "run" / "checkpoint-2", seed=2)
    sweeps = [{"preset": "sliding_window", "modules": ["mlp"], "values": [0]}, "norm_matching"]
    spec = make(tmp_path, base=str(base), runs={"a": "run"}, sweeps=sweeps, limit=2, max_values=1)
    assert sweep(spec, tmp_path / "out", workers=1).failed == []
    pair, found = open_pair(base, final), rows(tmp_path / "out")
    norm = math.hypot(*(float(pair.delta(name).norm()) for name in pair.names))
    matched = found[(found["kind"] == "norm-match") & (found["checkpoint"] == 0)]
    assert matched["update_norm"].to_list() == pytest.approx([norm], rel=1e-2)  # bf16
    experts = [name for name in pair.names if "block_sparse_moe" in name]
    expected = math.hypot(*(float(pair.delta(name).norm()) for name in experts))
    assert found[found["kind"] == "mlp"]["layer_norm"].to_list() == pytest.approx([expected])


def test_a_lora_adapter_is_a_run_too(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(base_dir())
    settings = peft.LoraConfig(r=2, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    peft.get_peft_model(model, settings).save_pretrained(tmp_path / "adapter")
    entry = {"preset": "intervention", "kind": "scale", "vary": "alpha", "values": [0, 0.5, 1]}
    sweep(make(tmp_path, runs={"lora": "adapter"}, sweeps=[entry]), tmp_path / "out", workers=1)
    pair = open_pair(base_dir(), tmp_path / "adapter")
    norm = math.hypot(*(float(pair.delta(name).norm()) for name in pair.lora))
    assert norm > 0
    assert rows(tmp_path / "out")["update_norm"].to_list() == pytest.approx([0, norm / 2, norm], rel=1e-5)
    write_bfloat16_run(tmp_path)
    weights = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    save_file({name: 0.02 * t for name, t in weights.items()}, tmp_path / "adapter" / "adapter_model.safetensors")
    small = open_pair(tmp_path / "base", tmp_path / "adapter")
    norm = math.hypot(*(float(small.delta(name).norm()) for name in small.lora))
    spec = make(tmp_path, base=str(tmp_path / "base"), runs={"lora": "adapter"}, sweeps=[entry])
    sweep(spec, tmp_path / "small", workers=1)
    found = rows(tmp_path / "small")  # merged in bf16, the update would be mostly rounding
    assert found["update_norm"].to_list() == pytest.approx([0, norm / 2, norm], rel=1e-3)
