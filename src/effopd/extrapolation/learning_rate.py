"""The learning rate that line searches ask for: a multiple of the optimizer's own.

If the best weights lie at 8 times the optimizer's update, its learning rate is 8 times too small. From then on it steps
with 8 times the rate, so that its update is about right, its moments fit its steps, and several passes over the same
rollouts are steps of the right size too.
"""

import logging
import math
from collections.abc import Callable
from typing import Any

from effopd.extrapolation.optimizers import torch_optimizer

logger = logging.getLogger(__name__)

LARGEST_MULTIPLE = 2.0**40
"""Bound of the multiple, and the inverse of its lower bound."""
FAR = 4.0
"""Multiple from which, and below whose inverse, the user is told that the learning rate does not fit."""
NUM_SEARCHES = 4
"""Number of first searches, after which the user is told, or never: later, a falling multiple is what ends training."""


class LearningRateMultiple:
    """Multiplies an optimizer's learning rate while it steps; schedules and logs see the rate that the user set.

    Args:
        multiple: Number that the learning rate is multiplied by.
        num_searches: Number of searches so far.
    """

    def __init__(self, multiple: float = 1.0, num_searches: int = 0) -> None:
        self.multiple = multiple
        self.num_searches = num_searches
        self._handles: list[Any] = []

    def attach(self, optimizer: Any, is_active: Callable[[], bool]) -> None:
        """Act on this optimizer's steps from now on, and on no other's, for as long as `is_active` says so."""
        self.detach()
        rates: list[Any] = []

        def multiply(torch_optimizer: Any, *_: Any) -> None:
            rates[:] = [group["lr"] for group in torch_optimizer.param_groups]
            for group in torch_optimizer.param_groups:
                group["lr"] = group["lr"] * (self.multiple if is_active() else 1.0)

        def give_back(torch_optimizer: Any, *_: Any) -> None:
            for group, rate in zip(torch_optimizer.param_groups, rates, strict=True):
                group["lr"] = rate

        inner = torch_optimizer(optimizer)
        self._handles = [inner.register_step_pre_hook(multiply), inner.register_step_post_hook(give_back)]

    def detach(self) -> None:
        """Let go of the optimizer."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def learn(self, factor: float, optimizer: Any, is_main_process: bool = True) -> None:
        """Take in what factor of the optimizer's update was best, and let the main process say once what that means.

        The first searches find the right size at once; of later factors the square root counts, because near the end of
        training they are mostly noise.
        """
        change = factor if self.num_searches < NUM_SEARCHES else math.sqrt(factor)
        self.multiple = min(max(self.multiple * change, 1 / LARGEST_MULTIPLE), LARGEST_MULTIPLE)
        self.num_searches += 1
        if self.num_searches != NUM_SEARCHES or not is_main_process:
            return
        group = optimizer.param_groups[0]
        found = float(group["lr"]) * self.multiple
        set_by_user = float(group.get("initial_lr", group["lr"]))  # during warm-up, the rate of now is far below it
        ratio = found / set_by_user if set_by_user else 1.0
        if ratio >= FAR or ratio <= 1 / FAR:
            logger.warning(
                "Your learning rate of %g is about %.0f times too %s for this training: the line search steps with "
                "%.2g, and goes on adapting it. Nothing has to be done.",
                set_by_user,
                max(ratio, 1 / ratio),
                "small" if ratio > 1 else "large",
                found,
            )

    def state(self) -> dict[str, Any]:
        """Return the arguments that make the same object again."""
        return {"multiple": self.multiple, "num_searches": self.num_searches}
