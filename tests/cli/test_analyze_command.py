"""`effopd analyze` as a user meets it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from report.fabricated_sweep import write_sweep
from updates.runs_on_disk import random_tensors, write, write_run

from effopd.checkpoints import find_checkpoints
from effopd.cli import main
from effopd.report.sweep import write_sweep_report


@pytest.fixture
def models(tmp_path: Path) -> tuple[Path, Path]:
    base, run, _ = write_run(tmp_path / "models", 2)
    return base, run


def test_from_checkpoints_to_a_report(
    models: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, run = models
    out = tmp_path / "out"
    pair = f"{run / 'checkpoint-10'},{run / 'checkpoint-20'}"
    command = ["analyze", "--base", str(base), "--run", f"whole={run}", "--run", f"list={pair}", "--out", str(out)]
    assert main(command) == 0
    table = pd.read_parquet(out / "updates.parquet")
    assert set(table.run) == {"whole", "list"}
    numbers = table.drop(columns="run")
    whole, listed = (numbers[table.run == name].reset_index(drop=True) for name in ("whole", "list"))
    pd.testing.assert_frame_equal(whole, listed)
    for name in ("report.html", "tables.md", "trajectories.parquet", "embeddings.parquet", "figures/spectra.svg"):
        assert (out / name).stat().st_size > 0
    capsys.readouterr()
    report = (out / "report.html").read_bytes()
    assert main(command) == 0
    assert "40 of 40 matrices were measured before" in capsys.readouterr().out
    assert (out / "report.html").read_bytes() == report


def test_base_and_runs_may_come_from_a_specification(models: tuple[Path, Path], tmp_path: Path) -> None:
    base, run = models
    spec = {"base": str(base), "root": str(run.parent), "tasks": ["world"], "sweeps": ["update_norm"]}
    spec["runs"] = {"whole": run.name, "pair": {"seeds": [[f"{run.name}/checkpoint-10", f"{run.name}/checkpoint-20"]]}}
    (tmp_path / "spec.yaml").write_text(json.dumps(spec))
    assert main(["analyze", "--spec", str(tmp_path / "spec.yaml"), "--out", str(tmp_path / "out")]) == 0
    assert set(pd.read_parquet(tmp_path / "out" / "updates.parquet").run) == {"whole", "pair"}


@pytest.mark.parametrize("options", [["--base", "b", "--spec", "world"], ["--run", "a=b"]])
def test_base_belongs_to_run_and_not_to_spec(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["analyze", "--out", "o", *options]) == 1
    assert "Give --base beside --run, and not beside --spec" in capsys.readouterr().err


def test_a_base_given_as_the_run_is_told(
    models: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, run = models
    command = ["analyze", "--base", str(base), "--out", str(tmp_path / "out")]
    assert main([*command, "--run", f"mine [1]={base}", "--run", f"real={run}"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Run ")]
    assert lines == ["Run mine [1]: all its weights are those of the base. Was the base given as the run?"]
    assert "was the base given as the run?" in (tmp_path / "out" / "report.html").read_text()


def test_what_the_stored_dtype_cannot_hold_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A small update of a model in bf16, and the same in float32."""
    base, step = random_tensors(0, torch.bfloat16), random_tensors(1)
    moved = {name: tensor.float() + 1e-3 * step[name] for name, tensor in base.items()}
    write(tmp_path / "base", base)
    write(tmp_path / "narrow", {name: tensor.bfloat16() for name, tensor in moved.items()})
    write(tmp_path / "wide", moved)
    runs = [f"--run={name}={tmp_path / name}" for name in ("narrow", "wide")]
    assert main(["analyze", "--base", str(tmp_path / "base"), *runs, "--out", str(tmp_path / "out")]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Run ")]
    table = pd.read_parquet(tmp_path / "out" / "updates.parquet")
    rows = table[table.run == "narrow"]
    share = (rows.changed_fraction * rows.rows * rows.cols).sum() / (rows.rows * rows.cols).sum()
    bound = np.linalg.norm(rows.rounding_bound) / np.linalg.norm(rows.frobenius_norm)
    assert 0 < share < 0.5 and bound > 0.5
    (line,) = lines
    assert line.startswith(f"Run narrow: {share:.2%} of the entries of the last checkpoint differ from the base's.")
    assert f"Rounding to bfloat16 can have changed the update by up to {bound:.0%} of its norm" in line
    assert "What the stored dtype holds of the update" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--run", "nothing"], "is not NAME=DIR"),
        (["--run", "=x"], "is not NAME=DIR"),
        (["--run", "a=x,"], "is not NAME=DIR"),
        (["--run", "a=x", "--workers", "0"], "expected a whole number of at least 1"),
        (["--run", "a=x", "--precision", "bfloat16"], "invalid choice"),
        ([], "--run"),
    ],
)
def test_wrong_usage(options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["analyze", "--base", "b", "--out", "o", *options])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_wrong_models_are_named_and_nothing_is_written(
    models: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, run = models
    empty, pickled, small = tmp_path / "empty", tmp_path / "pickled", tmp_path / "small"
    text = tmp_path / "text"
    text.write_text("Some words.")
    empty.mkdir()
    pickled.mkdir()
    torch.save({}, pickled / "pytorch_model.bin")
    (pickled / "config.json").write_text("{}")
    write(small, {name: tensor for name, tensor in random_tensors(0).items() if "layers.1" not in name})
    cases = [
        (["--run", f"a={empty}"], str(empty)),
        (["--run", f"a={tmp_path / 'absent'}"], "absent"),
        (["--run", f"a={pickled}"], "safetensors"),
        (["--run", f"a={small}"], "model.layers.1.mlp.experts.down_proj"),
        (["--run", f"a={run}", "--run", f"a={run}"], "expected each once"),
        (["--run", f"a={run}", "--ignore", "("], "not a regular expression"),
        (["--run", f"a={run}", "--text", str(tmp_path / "no.txt")], "no.txt"),
        (["--run", f"a={run}", "--text", str(text)], "no tokenizer"),
        (["--run", f"a={run}", "--text", str(base / "config.json")], "expected a row with the text `completion`"),
        (["--run", f"a={run}", "--sweep", str(tmp_path / "no-sweep")], "no-sweep"),
    ]
    for options, message in cases:
        out = tmp_path / "out"
        assert main(["analyze", "--base", str(base), "--out", str(out), *options]) == 1
        error = capsys.readouterr().err
        assert message in error
        assert "Traceback" not in error
        assert not out.exists()


def test_a_sweep_of_other_models_is_refused_before_anything_is_measured(
    models: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, run = models
    swept, path = write_sweep(tmp_path / "sweep"), tmp_path / "sweep" / "sweep.json"
    write_sweep_report(swept)
    made_up = json.loads(path.read_text())
    mine = [each.identity() for each in find_checkpoints(run)]
    others = [each | {"files": "changed"} for each in mine]
    command = [
        "analyze",
        "--base",
        str(base),
        "--run",
        f"a={run}",
        "--sweep",
        str(swept),
        "--out",
        str(tmp_path / "out"),
    ]
    for identity, message in (
        ({"base": str(run / "checkpoint-10"), "runs": {"a": [mine]}}, "is a sweep of the base"),
        ({"base": str(base), "runs": {"a": [others]}}, "is a sweep of another run a"),
        ({"base": str(base), "runs": {"b": [others], "c": []}}, "is a sweep of b, c, in which none of a is"),
    ):
        path.write_text(json.dumps(made_up | identity))
        assert main(command) == 1
        assert message in capsys.readouterr().err
        assert not (tmp_path / "out").exists()
    runs = {name: [mine[-1:]] if index == 0 else seeds for index, (name, seeds) in enumerate(made_up["runs"].items())}
    path.write_text(
        json.dumps(made_up | {"base": str(base), "runs": runs})
    )  # one of its runs is this one, of another name
    assert main(command) == 0
    assert "Accuracy against the norm of the update" in (tmp_path / "out" / "report.html").read_text()


def test_ctrl_c_keeps_what_was_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, run, _ = write_run(tmp_path / "models", 40)
    out = tmp_path / "out"
    command = ["analyze", "--base", str(base), "--run", f"a={run}", "--out", str(out)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "effopd", *command, "--workers", "2"],
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # it is ignored in background jobs
    )
    while not (out / "progress.jsonl").exists() and process.poll() is None:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the workers get it too
    _, error = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Traceback" not in error
    assert "same command continues" in error
    measured = len((out / "progress.jsonl").read_text().splitlines())
    assert 0 < measured < 400
    assert not (out / "updates.parquet").exists()
    assert main(command) == 0
    assert f"{measured} of 400 matrices were measured before" in capsys.readouterr().out
    assert len(pd.read_parquet(out / "updates.parquet")) == 400
