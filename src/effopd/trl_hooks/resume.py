"""Being called when training starts or resumes, and resuming with the prompts in the order they would have had."""

import weakref
from collections.abc import Callable
from inspect import ismethod
from typing import Any

from trl.trainer.utils import RepeatSampler


def on_resume(trainer: Any, action: Callable[[str], None]) -> None:
    """Call `action` with the checkpoint's directory when training resumes from one, before its first step.

    From then on, resumed training gets its prompts in the order in which they would have come without the
    interruption. If `action` is a bound method, this does not keep its object alive.
    """
    _keep_order_of_prompts(trainer)
    original, find = trainer._load_optimizer_and_scheduler, weakly(action)

    def load(checkpoint: str | None) -> None:
        original(checkpoint)
        if checkpoint is not None and (found := find()) is not None:
            found(checkpoint)

    trainer._load_optimizer_and_scheduler = load


def on_start(trainer: Any, action: Callable[[], None]) -> None:
    """Call `action` when training starts, before its first step.

    If `action` is a bound method, this does not keep its object alive.
    """
    original, find = trainer._init_training_state, weakly(action)

    def initialize(*args: Any, **kwargs: Any) -> Any:
        if (found := find()) is not None:
            found()
        return original(*args, **kwargs)

    trainer._init_training_state = initialize


def weakly(action: Callable[..., None]) -> Callable[[], Callable[..., None] | None]:
    """Return a function that finds the action, or None once the object that a bound method belongs to is gone."""
    return weakref.WeakMethod(action) if ismethod(action) else lambda: action


def _keep_order_of_prompts(trainer: Any) -> None:
    """Let the sampler of prompts draw the orders of the finished passes before it draws that of the pass under way.

    In a new process TRL's sampler starts its random numbers anew, and would give the first pass's order again.
    """
    if vars(trainer).get("_effopd_keeps_order"):
        return
    trainer._effopd_keeps_order = True
    make_sampler, initialize = trainer._get_train_sampler, trainer._init_training_state
    made: list[Any] = []

    def get_train_sampler(*args: Any, **kwargs: Any) -> Any:
        made[:] = [make_sampler(*args, **kwargs)]
        return made[0]

    def init_training_state(*args: Any, **kwargs: Any) -> tuple[int, int]:
        num_epochs, num_steps = initialize(*args, **kwargs)
        for _ in range(num_epochs if made and isinstance(made[0], RepeatSampler) else 0):
            next(iter(made[0]))
        return num_epochs, num_steps

    trainer._get_train_sampler, trainer._init_training_state = get_train_sampler, init_training_state
