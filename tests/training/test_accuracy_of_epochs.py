"""Accuracy that is measured at the end of epochs, which transformers does after it has saved their last steps."""

import json
from pathlib import Path

import pytest
from small_runs import world

from effopd.training import train


@pytest.mark.parametrize("save_steps", [4, 3, 1000])
def test_each_epoch_has_its_accuracy(save_steps: int, tmp_path: Path) -> None:
    arguments = {"evaluation_dataset_name": "world:evaluation", "num_evaluation_examples": 8, "num_train_examples": 64}
    epochs = {"eval_strategy": "epoch", "num_train_epochs": 2, "max_steps": -1, "save_steps": save_steps}
    rows = train(*world(tmp_path, arguments | {"acceleration": "none", "extrapolation": None}, **epochs))
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert [row["accuracy"] is not None for row in rows] == [False, False, False, True] * 2
    assert json.loads((tmp_path / "run.json").read_text())["last"] == rows[-1]
    assert f"{rows[-1]['accuracy']:.3f}" in (tmp_path / "README.md").read_text()
