"""Why a run ended early, in a sentence for the person who started it."""

import errno
import math
import os
import shutil
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from effopd import trl_hooks
from effopd.errors import DivergedError, EffOPDError, ServerError, listing
from effopd.extrapolation.shards import local_part
from effopd.training.complete_checkpoints import goes_on_from, newest_checkpoint

# Number of bytes left on the disk below which an error while saving is put down to a full disk.
FULL_DISK = 1 << 20


def explained(error: Exception, trainer: Any, rewards: Sequence[Any]) -> Exception | None:
    """Find out why training ended.

    Args:
        error: What was raised while training or saving.
        trainer: Trainer of the run.
        rewards: Reward functions of the run.

    Returns:
        An error that says what happened and what to do, to be raised from the other one; None if nothing is known about
        it, or if it says so itself.
    """
    directory, full = Path(trainer.args.output_dir), os.strerror(errno.ENOSPC)
    if full in str(error) or shutil.disk_usage(directory).free < FULL_DISK:
        return OSError(errno.ENOSPC, full, str(directory))  # torch and safetensors have errors of their own for it
    if isinstance(error, EffOPDError):
        return None
    step, again = trainer.state.global_step, f"The same command {goes_on_from(newest_checkpoint(directory))}."
    if trl_hooks.is_divergence(error):
        return DivergedError(
            f"After step {step}, the student's probabilities are not finite any more: training has diverged. Lower the "
            "learning rate, and choose another directory."
        )
    if place := _raised_in(error, rewards):
        return EffOPDError(f"After step {step}, the reward function raised {named(error)} ({place}). Mend it. {again}")
    if is_of_a_server(error):
        return ServerError(
            f"After step {step}, a server could not be reached: {named(error)}. Look at its log, and start it. {again}"
        )
    if isinstance(error, dist.DistError) or "gloo" in str(error):
        return EffOPDError(
            f"After step {step}, another process of this training does not answer: {named(error)}. Look at its log, and"
            f" end the processes that are left. {again}"
        )
    return None


def check_finite(trainer: Any, loss: float) -> None:
    """Stop before weights are saved that a loss which is not finite has spoilt.

    Args:
        trainer: Trainer that has done a step.
        loss: Loss of the step, over all processes.

    Raises:
        DivergedError: The loss is not finite. The message says whether the teacher is to blame.
    """
    if math.isfinite(loss):
        return
    teacher = getattr(trainer, "teacher_model", None)
    weights = teacher.named_parameters() if teacher is not None else ()
    broken = [name for name, weight in weights if not bool(torch.isfinite(local_part(weight)).all())]
    where = f"In step {trainer.state.global_step}, the loss is {loss}"
    if broken:
        again = goes_on_from(newest_checkpoint(Path(trainer.args.output_dir)))
        raise DivergedError(
            f"{where}, because the teacher has weights that are not finite: {listing(broken, 3)}. Put an intact "
            f"teacher in its place. The same command then {again}."
        )
    raise DivergedError(f"{where}: training has diverged. Lower the learning rate, and choose another directory.")


def named(error: BaseException) -> str:
    """Write an error with its class and the first sentence of what it says."""
    said = (str(error).strip() or "no message").splitlines()[0].partition(". ")[0]
    return f"{type(error).__name__}: {said.rstrip('.')}"


def is_of_a_server(error: BaseException) -> bool:
    """Tell whether an error is about a server that does not answer; those of requests are not Python's own."""
    modules = {each.__module__.partition(".")[0] for each in type(error).__mro__}
    return isinstance(error, ConnectionError) or "requests" in modules


def _raised_in(error: BaseException, functions: Sequence[Any]) -> str | None:
    """Tell the file and line of an error that was raised while one of the functions ran; None if it was not."""
    codes = {getattr(each, "__code__", getattr(type(each).__call__, "__code__", None)) for each in functions}
    frames = [frame.f_code for frame, _ in traceback.walk_tb(error.__traceback__)]
    if not codes.intersection(frames):
        return None
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{last.filename}, line {last.lineno}"
