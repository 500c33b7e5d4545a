"""Old checkpoints go once the newest is complete, and by the number of their step."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tiny import distillation_trainer
from transformers import TrainerCallback

from effopd import trl_hooks


def make(out: Path, *steps: int) -> None:
    for step in steps:
        (out / f"checkpoint-{step}").mkdir()
        (out / f"checkpoint-{step}" / "file").touch()


def names(out: Path) -> list[str]:
    return sorted(path.name for path in out.iterdir() if "checkpoint" in path.name)


@pytest.mark.parametrize(
    ("limit", "best", "left"),
    [
        (None, None, ["2", "4", "10", "12"]),
        (0, None, ["2", "4", "10", "12"]),
        (1, None, ["10", "12"]),
        (1, 2, ["2", "10", "12"]),
        (2, None, ["4", "10", "12"]),
        (3, 2, ["2", "4", "10", "12"]),
        (9, None, ["2", "4", "10", "12"]),
    ],
)
def test_the_oldest_go_first_and_later_ones_do_not_count(
    limit: int | None, best: int | None, left: list[str], tmp_path: Path
) -> None:
    """12 is half of a checkpoint, from which training does not go on."""
    make(tmp_path, 2, 4, 10, 12)
    (tmp_path / "checkpoint-best").mkdir()
    (tmp_path / ".checkpoint-1.removed").mkdir()  # what a kill has left
    args = SimpleNamespace(output_dir=str(tmp_path), save_total_limit=limit)
    elsewhere = tmp_path.parent / "before-it-was-moved"
    trl_hooks.remove_old_checkpoints(args, 10, None if best is None else str(elsewhere / f"checkpoint-{best}"))
    assert names(tmp_path) == sorted(f"checkpoint-{each}" for each in [*left, "best"])


class Seen(TrainerCallback):
    """Notes which checkpoints are there while callbacks save, and dates each before the last one."""

    def __init__(self) -> None:
        self.seen: list[list[str]] = []

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        out = Path(args.output_dir)
        self.seen.append(names(out))
        os.utime(out / f"checkpoint-{state.global_step}", times=(1e9 - 1e6 * state.global_step,) * 2)


def test_they_are_there_until_callbacks_have_saved(tmp_path: Path) -> None:
    trainer = distillation_trainer(tmp_path, max_steps=3, save_strategy="steps", save_steps=1, save_total_limit=1)
    trl_hooks.remove_old_checkpoints_last(trainer)
    trl_hooks.remove_old_checkpoints_last(trainer)  # a second call changes nothing
    callback = Seen()
    trainer.add_callback(callback)
    trainer.train()
    assert callback.seen == [["checkpoint-1"], ["checkpoint-1", "checkpoint-2"], ["checkpoint-2", "checkpoint-3"]]
    assert names(tmp_path) == ["checkpoint-3"]
    assert trainer.args.save_total_limit == 1
