"""AlphaOPD: exact on a made-up run that is linear in its accuracy, and a run of `effopd train` from end to end."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small_runs import world
from test_run import without_seconds

from effopd.checkpoints import open_model, write_model
from effopd.errors import ConfigurationError, DataError
from effopd.parameters import locate
from effopd.training import build_trainer, train
from effopd.training.alphaopd import extrapolate_run
from effopd.world import model_path

EVALUATED = {
    **{"evaluation_dataset_name": "world:evaluation", "num_evaluation_examples": 60},
    **{"acceleration": "none", "extrapolation": None},
}
WINDOW = {"eval_strategy": "steps", "eval_steps": 1, "save_steps": 2, "learning_rate": 1e-3}


def model_at(accuracy: float) -> dict[str, torch.Tensor]:
    """The base, with matrices of attention and MLP on straight lines, and something else in all other tensors."""
    generator, reader = torch.Generator().manual_seed(0), open_model(model_path("world:base"))
    tensors = {}
    for name, info in reader.tensors.items():
        weights = reader.read(name)
        if len(info.shape) == 2 and locate(name).kind in ("attention", "mlp"):
            rows, columns = info.shape
            start, slope, right = (torch.randn(size, generator=generator) for size in (rows, rows, columns))
            tensors[name] = weights + 0.1 * torch.outer(start + accuracy * slope, right)
        else:
            tensors[name] = weights + accuracy
    return tensors


def made_up_run(directory: Path, accuracies: list[float]) -> Path:
    rows = []
    for step, accuracy in enumerate(accuracies, start=1):
        folder = directory / f"checkpoint-{step}"
        write_model(folder, model_at(accuracy).items(), like=model_path("world:base"))
        (folder / "effopd-complete.json").write_text("{}")
        rows.append({"step": step, "accuracy": accuracy, "rollouts": 16 * step})
    rows.append({"step": 9, "accuracy": 0.99, "rollouts": 999})  # evaluated, and not saved
    (directory / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return directory


def test_a_run_that_is_linear_in_its_accuracy_is_continued_exactly(tmp_path: Path) -> None:
    record = extrapolate_run(made_up_run(tmp_path, [0.2, 0.3, 0.5]), "world:base", 0.9, num_evaluation=50)
    found, wanted = load_file(tmp_path / "alphaopd" / "model.safetensors"), model_at(0.9)
    base = open_model(model_path("world:base"))
    moved = 0
    assert found.keys() == wanted.keys()
    for name, tensor in found.items():
        if tensor.ndim == 2 and locate(name).kind in ("attention", "mlp"):
            torch.testing.assert_close(tensor, wanted[name], rtol=1e-4, atol=1e-5)
            moved += 1
        else:
            assert tensor.equal(base.read(name))
    assert record["steps"] == [1, 2, 3]
    assert record["accuracies"] == [0.2, 0.3, 0.5]
    assert (record["evaluation_rollouts"], record["rollouts"]) == (3 * 50, 3 * 16 + 3 * 50)
    assert (record["matrices"], record["left_at_base"]) == (moved, [])
    assert record["r2"] == pytest.approx(1.0)


@pytest.mark.parametrize(("accuracies", "message"), [([0.2, 0.3], "got 2 checkpoints"), ([0.4] * 3, "that differ")])
def test_runs_that_say_too_little_are_refused(accuracies: list[float], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        extrapolate_run(made_up_run(tmp_path, accuracies), "world:base", 0.9, num_evaluation=50)
    assert not (tmp_path / "alphaopd").exists()


def test_a_run_from_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opd = train(*world(tmp_path / "opd", EVALUATED, **WINDOW))
    settings = EVALUATED | {"alphaopd_target": 0.9}
    with monkeypatch.context() as patched:  # is interrupted after it has written the model
        patched.setattr(
            "effopd.training.run.load_model", lambda *args, **kwargs: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        with pytest.raises(KeyboardInterrupt):
            train(*world(tmp_path / "alpha", settings, method="alphaopd", **WINDOW))
    assert (tmp_path / "alpha" / "alphaopd").exists() and not (tmp_path / "alpha" / "run.json").exists()
    rows = train(*world(tmp_path / "alpha", settings, method="alphaopd", **WINDOW))
    assert [*map(without_seconds, rows)] == [*map(without_seconds, opd)]  # the window is OPD to the bit
    left, right = (load_file(tmp_path / name / "model.safetensors") for name in ("opd", "alpha"))
    assert all(left[name].equal(right[name]) for name in left)
    record = json.loads((tmp_path / "alpha" / "alphaopd.json").read_text())
    assert record == json.loads((tmp_path / "alpha" / "run.json").read_text())["alphaopd"]
    assert record["steps"] == [2, 4, 6]
    assert record["rollouts"] == rows[-1]["rollouts"] + 3 * 60
    assert 0 <= record["accuracy"] <= 1
    card = (tmp_path / "alpha" / "README.md").read_text()
    assert f"the model in `alphaopd`, whose accuracy was {record['accuracy']:.3f}" in card
    assert "by whose accuracy AlphaOPD extrapolated | 180 |" in card
    extrapolated = load_file(tmp_path / "alpha" / "alphaopd" / "model.safetensors")
    assert extrapolated.keys() == left.keys()
    assert record["matrices"] > 0 and not all(extrapolated[name].equal(left[name]) for name in left)


@pytest.mark.parametrize(
    ("arguments", "config", "message"),
    [
        ({}, {"method": "alphaopd"}, "alphaopd_target is not set"),
        ({"alphaopd_target": 0.9}, {}, "no effect with method='opd'"),
        ({"alphaopd_target": 0.9, "acceleration": "paper"}, {"method": "alphaopd"}, "not defined together"),
        (
            {"alphaopd_target": 0.9},
            {"method": "alphaopd", "eval_strategy": "no"},
            "set eval_strategy and save_strategy",
        ),
        ({"alphaopd_target": 0.9}, {"method": "alphaopd", "save_total_limit": 2}, "removes checkpoints"),
        ({"alphaopd_target": 0.9}, {"method": "alphaopd", "save_steps": 6}, "1 steps are both saved and evaluated"),
    ],
)
def test_what_does_not_go_together_is_refused(
    arguments: dict[str, Any], config: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        build_trainer(*world(tmp_path / "out", EVALUATED | arguments, **WINDOW | config))
