"""Removing old checkpoints (`save_total_limit`) once the newest is complete, with what callbacks put into it.

By itself, transformers' Trainer removes them before its callbacks save, so that a process that is killed then leaves
no checkpoint to continue from; and it goes by the time of change, so that it removes the newest one when the clock is
set back.
"""

import shutil
from pathlib import Path
from typing import Any

from transformers import Trainer


def remove_old_checkpoints_last(trainer: Any) -> None:
    """Let a trainer remove old checkpoints after all callbacks have saved, and by the number of their step.

    A trainer that is not derived from transformers' is left as it is.
    """
    if not isinstance(trainer, Trainer) or vars(trainer).get("_effopd_removes_last"):
        return
    trainer._effopd_removes_last = True
    save, on_save = trainer._save_checkpoint, trainer.callback_handler.on_save

    def save_checkpoint(*args: Any, **kwargs: Any) -> None:
        limit, trainer.args.save_total_limit = trainer.args.save_total_limit, None
        try:
            save(*args, **kwargs)
        finally:
            trainer.args.save_total_limit = limit

    def on_save_and_remove(args: Any, state: Any, control: Any) -> Any:
        control = on_save(args, state, control)
        if args.should_save:
            remove_old_checkpoints(args, state.global_step, state.best_model_checkpoint)
        return control

    trainer._save_checkpoint, trainer.callback_handler.on_save = save_checkpoint, on_save_and_remove


def remove_old_checkpoints(args: Any, newest: int, best: str | None = None) -> None:
    """Remove checkpoints before the newest, the oldest ones first, until `save_total_limit` are left.

    Each is renamed first, so that half of it is never taken for a checkpoint. What an interruption has left of one is
    removed as well.

    Args:
        args: Settings of the training.
        newest: Number of the step of the newest complete checkpoint, which stays; later ones do not count.
        best: Directory of the best checkpoint, which stays too, or None.
    """
    directory = Path(args.output_dir)
    for removed in directory.glob(".checkpoint-*.removed"):
        shutil.rmtree(removed)
    if args.save_total_limit is None or args.save_total_limit <= 0:
        return
    numbers = {path: path.name.removeprefix("checkpoint-") for path in directory.glob("checkpoint-*") if path.is_dir()}
    steps = {int(number): path for path, number in numbers.items() if number.isdecimal() and int(number) <= newest}
    kept = {newest} | {step for step, path in steps.items() if best is not None and path.name == Path(best).name}
    others = sorted(steps.keys() - kept)
    for step in others[: len(others) - max(0, args.save_total_limit - len(kept))]:
        removed = directory / f".checkpoint-{step}.removed"
        steps[step].rename(removed)
        shutil.rmtree(removed)
