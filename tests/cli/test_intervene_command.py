"""`effopd intervene` as a person meets it."""

import errno
import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints.tiny_pairs import load_tensors
from cli.status import status_of

from effopd.interventions import KINDS


@pytest.mark.parametrize(
    ("arguments", "entry"),
    [
        (["scale", "--alpha", "-0.5"], {"scale": {"alpha": -0.5}}),
        (["replace-embeddings"], {"replace-embeddings": {}}),
        (
            ["window", "--module", "mlp", "--centre", "1", "--half-width", "0", "--other", "trained"],
            {"window": {"module": "mlp", "centre": 1, "half_width": 0, "other": "trained"}},
        ),
        (
            ["window", "--module", "both", "--centre", "0"],
            {"window": {"module": "both", "centre": 0, "half_width": 8, "other": "base"}},
        ),
        (["top", "--percent", "10"], {"top": {"percent": 10.0, "norm_like": None, "other": "trained"}}),
        (["bottom", "--percent", "50", "--other", "base"], {"bottom": {"percent": 50.0, "other": "base"}}),
    ],
)
def test_every_kind(llama: Path, trained_llama: Path, tmp_path: Path, arguments: list[str], entry: Any) -> None:
    out = tmp_path / "out"
    common = ["--base", llama, "--trained", trained_llama, "--out", out]
    assert status_of("intervene", *arguments, *common) == 0
    assert json.loads((out / "intervention.json").read_text())["interventions"] == [entry]
    assert load_tensors(out).keys() == load_tensors(llama).keys()


def test_norms_of_other_models_and_plans(
    llama: Path, trained_llama: Path, other_llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["--base", llama, "--trained", trained_llama]
    top = ["top", "--percent", 10, "--norm-like", other_llama]
    assert status_of("intervene", *top, *common, "--out", tmp_path / "0") == 0
    assert status_of("intervene", "norm-match", "--final", other_llama, *common, "--out", tmp_path / "1") == 0
    assert "Norm of the update" in capsys.readouterr().out
    plan = tmp_path / "plan.yaml"
    plan.write_text(f"- top: {{percent: 10, norm_like: {other_llama}}}\n")
    sharded = ["--out", tmp_path / "2", "--max-shard-gb", 1e-5]
    assert status_of("intervene", "compose", plan, *common, *sharded) == 0
    assert len(list((tmp_path / "2").glob("*.safetensors"))) > 1
    direct, composed = load_tensors(tmp_path / "0"), load_tensors(tmp_path / "2")
    assert all(torch.equal(tensor, direct[name]) for name, tensor in composed.items())


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["fly"], 2, "invalid choice: 'fly' (choose from"),
        ([], 2, "required: KIND"),
        (["scale"], 2, "required: --alpha"),
        (["scale", "--alpha", "x"], 2, "invalid float value: 'x'"),
        (["scale", "--alpha", "1", "--beta", "2"], 2, "unrecognized arguments: --beta 2"),
        (["scale", "--alpha", "nan"], 1, "alpha: got nan, expected a finite number"),
        (["top", "--percent", "0"], 1, "percent: got 0.0, expected a finite number, above 0 and at most 100"),
        (["top", "--percent", "5", "--other", "x"], 1, "expected one of base, trained"),
        (["window", "--module", "norm", "--centre", "0"], 1, "expected one of mlp, attention, both"),
        (["window", "--module", "mlp", "--centre", "2"], 1, "got centre 2; expected a layer from 0 to 1"),
        (["window", "--module", "mlp", "--centre", "0", "--half-width", "-1"], 1, "half_width: got -1"),
        (["compose", "none.yaml"], 1, "none.yaml cannot be read"),
        (["scale", "--alpha", "1", "--run", "opd"], 1, "give --factors too"),
        (["scale", "--alpha", "1", "--factors", "none"], 1, "no saved factors"),
        (["scale", "--alpha", "1", "--max-shard-gb", "0"], 1, "--max-shard-gb: got 0.0"),
        (["norm-match", "--final", "/none"], 1, "/none"),
    ],
)
def test_wrong_usage(
    llama: Path,
    trained_llama: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    common = ["--base", llama, "--trained", trained_llama, "--out", tmp_path / "out"] if arguments else []
    assert status_of("intervene", *arguments, *common) == code
    err = capsys.readouterr().err
    assert message in err
    assert "Traceback" not in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("what", "code", "message"),
    [
        (signal.SIGTERM, 143, "interrupted. Nothing was written."),
        (signal.SIGINT, 130, "interrupted. Nothing was written."),
        (OSError(errno.ENOSPC, "No space left on device", "x"), 1, "'x'. Nothing was written."),
    ],
)
def test_an_end_before_time_leaves_nothing(
    llama: Path,
    trained_llama: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
    what: Any,
    code: int,
    message: str,
) -> None:
    def save(tensors: Any, file: Path) -> None:
        file.touch()
        if isinstance(what, OSError):
            raise what
        signal.raise_signal(what)

    monkeypatch.setattr("effopd.checkpoints.writer.save_tensors", save)
    before = signal.getsignal(signal.SIGTERM)
    ctrl_c = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background starts without
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, ctrl_c))
    common = ["--base", llama, "--trained", trained_llama, "--out", tmp_path / "out"]
    assert status_of("intervene", "scale", "--alpha", 0.5, *common) == code
    assert message in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is before
    assert not list(tmp_path.iterdir())


def test_the_help_names_every_kind(capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of("intervene", "--help") == 0
    out = capsys.readouterr().out
    assert all(kind in out for kind in [*KINDS, "compose"])


def test_an_interruption_while_the_options_are_made(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("effopd.cli.intervene._add_kinds", lambda parser: signal.raise_signal(signal.SIGTERM))
    assert status_of("intervene", "--help") == 143
    assert "interrupted. Nothing was written." in capsys.readouterr().err
