"""The models of a run are found in order, each once."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from tiny_pairs import copy, write_raw

from effopd.checkpoints import Checkpoint, find_checkpoints
from effopd.errors import DataError


def model(path: Path, value: float) -> Path:
    if path.exists():
        shutil.copytree(write_raw(path.with_name("x"), {"a": torch.full((3,), value)}), path, dirs_exist_ok=True)
        shutil.rmtree(path.with_name("x"))
        return path
    return write_raw(path, {"a": torch.full((3,), value)})


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Three checkpoints, written out of order."""
    for step in (100, 20, 3):
        model(tmp_path / "run" / f"checkpoint-{step}", step)
    return tmp_path / "run"


def steps(run: Path) -> list[int | None]:
    return [found.step for found in find_checkpoints(run)]


def state(directory: Path, step: object) -> None:
    (directory / "trainer_state.json").write_text(json.dumps({"global_step": step}))


def test_checkpoints_are_sorted_by_step(run: Path) -> None:
    (run / "checkpoint-final").mkdir()
    assert find_checkpoints(str(run)) == [Checkpoint(n, run / f"checkpoint-{n}") for n in (3, 20, 100)]


def test_the_final_model_comes_last(run: Path) -> None:
    model(run, 7)
    assert find_checkpoints(run)[-1] == Checkpoint(None, run)
    state(run, 120)
    assert find_checkpoints(run)[-1] == Checkpoint(120, run)


def test_the_final_model_of_our_own_run(tmp_path: Path) -> None:
    """A run that `target_accuracy` stopped between two checkpoints."""
    model(tmp_path / "run" / "checkpoint-10", 10)
    run = model(tmp_path / "run", 13)
    (run / "run.json").write_text(json.dumps({"steps": 13, "last": None}))
    assert steps(run) == [10, 13]
    (run / "run.json").write_text(json.dumps({"settings": {}}))
    assert steps(run) == [10, None]


def test_a_final_model_that_is_a_checkpoint_is_left_out(run: Path) -> None:
    model(run, 20)
    assert steps(run) == [3, 20, 100]
    model(run, 7)
    state(run, 100)
    assert steps(run) == [3, 20, 100]


def test_one_model_and_lists(run: Path, tmp_path: Path) -> None:
    single = model(tmp_path / "single", 1)
    assert find_checkpoints(single) == [Checkpoint(None, single)]
    assert find_checkpoints(run / "checkpoint-20") == [Checkpoint(20, run / "checkpoint-20")]
    stated = copy(single, tmp_path / "stated")
    state(stated, 5)
    assert find_checkpoints([single, str(stated), run / "checkpoint-3"]) == [
        Checkpoint(None, single),
        Checkpoint(5, stated),
        Checkpoint(3, run / "checkpoint-3"),
    ]


def test_what_is_no_run_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="empty list"):
        find_checkpoints([])
    (tmp_path / "nothing").mkdir()
    with pytest.raises(DataError, match="not a model directory"):
        find_checkpoints(tmp_path / "nothing")
    (run / "checkpoint-200").mkdir()
    with pytest.raises(DataError, match=r"checkpoint-200: not a model directory.*interrupted"):
        find_checkpoints(run)
    state(model(tmp_path / "odd", 1), "many")
    with pytest.raises(DataError, match="global_step is 'many'"):
        find_checkpoints(tmp_path / "odd")
