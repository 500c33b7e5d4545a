"""Scoring candidates on the rollouts that the next step has sampled from W_t, before it trains on them.

These rollouts are new to the direction `W_t - W_anchor`, which was computed from earlier ones, and they are needed
anyway. So validation costs neither rollouts nor a pass of the teacher, but only forward passes of the student.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from trl import DistillationTrainer
from typing_extensions import override

from effopd import trl_hooks
from effopd.errors import ConfigurationError, UnsupportedError
from effopd.extrapolation.optimizers import torch_optimizer
from effopd.extrapolation.search import Score
from effopd.extrapolation.validation import Validator

_EMPTIED = "and the line search empties the optimizer's state after each jump"
_BY_ITSELF = "steps during the backward pass, where the line search cannot set its learning rate"
# Parts of names of optimizers that a line search does not work with, and why.
_REFUSED_OPTIMIZERS = {
    "adagrad": f"fills its state once and for all, {_EMPTIED}",
    "paged_": f"does not free its pages, {_EMPTIED}, so that memory would run out",
    "layerwise": _BY_ITSELF,
    "lomo": _BY_ITSELF,
}


class NextRolloutsValidator(Validator):
    """Scores by minus the reverse KL from student to teacher, in nats per completion, on the next step's rollouts.

    The KL is exact over the vocabulary, and a mean over the rollouts. What a candidate would write otherwise than W_t
    is not seen there; its distance to W_t on the same tokens is measured too, for a trust region.

    Attributes:
        step: Rollouts of the step under way; None before `watch`.
    """

    def __init__(self) -> None:
        self.step: trl_hooks.StepRollouts | None = None

    @override
    def check(self, trainer: Any) -> None:
        if not isinstance(trainer, DistillationTrainer) or trainer.teacher_model is None:
            raise ConfigurationError(
                f"validator='next_rollouts' scores by the exact KL to a teacher on the rollouts of one step, for which "
                f"it needs TRL's DistillationTrainer with a teacher model; got {type(trainer).__name__}. With rewards "
                "instead of a teacher, the best scale of a single update is mostly noise (docs/line_search.md). "
                "Use preset='paper'."
            )
        if getattr(trainer, "reference_model", None) is not None:
            raise UnsupportedError(
                "validator='next_rollouts' scores by the KL to the teacher, and ExOPD (reference_model) trains towards "
                "something else. Use preset='paper', or leave the reference model out."
            )
        if getattr(trainer, "beta", 1.0) != 1.0:
            raise UnsupportedError(
                f"validator='next_rollouts' scores by the reverse KL, which is beta=1, and beta={trainer.beta} trains "
                "by another divergence. Use preset='paper', or leave beta at 1."
            )
        optimizer = str(getattr(trainer.args, "optim", ""))
        if isinstance(torch_optimizer(trainer.optimizer), torch.optim.Adagrad):
            optimizer = "adagrad"
        for name, reason in _REFUSED_OPTIMIZERS.items():
            if name in optimizer:
                raise UnsupportedError(f"optim={optimizer!r} {reason}. Use another, such as optim='adamw_torch'.")
        columns = set(getattr(trainer.train_dataset, "column_names", None) or ())
        if {"image", "images"} & columns:
            raise UnsupportedError(
                "The training dataset has images, which validator='next_rollouts' does not score. Train without "
                "acceleration."
            )

    def watch(self, trainer: Any, on_sampled: Callable[[], None], num_rollouts: int, passes: int) -> None:
        """Call `on_sampled` at each step of the training that begins, between sampling and training on its rollouts."""
        self.step = trl_hooks.StepRollouts(trainer, on_sampled, num_rollouts, passes)

    def read_by_teacher(self) -> None:
        """Let the teacher read what is going to be scored. That is a part of training, which uses it too."""
        assert self.step is not None
        self.step.read_by_teacher()

    def score_live(self) -> Score:
        """Score the live weights. This is collective. The first call of a step must be for W_t."""
        assert self.step is not None
        divergences, kl_to_current = self.step.score()
        return Score.of((-divergences).tolist(), kl_to_current=kl_to_current)

    def note_sampler(self, restore: Callable[[], None], publish: Callable[[], None]) -> None:
        """Note how W_t sampled the rollouts, if the trainer needs that to train other weights on them.

        An estimator that takes expectations over the sampled tokens does; one over the vocabulary at each prefix does
        not. `restore` makes W_t live before, and `publish` tells who holds copies of it. This is collective.
        """
        assert self.step is not None
        if getattr(self.step.trainer, "effopd_weighs_tokens", False):
            restore()
            publish()
            self.step.note_sampling_logprobs()

    def end_step(self, passes: int) -> None:
        """Do what is left of the passes over the step's rollouts, and forget them. This is collective."""
        assert self.step is not None
        for _ in range(1, passes):
            self.step.train_again()
        self.step.forget()

    @override
    def scores(self, trainer: Any, rollouts: Sequence[trl_hooks.Rollout]) -> torch.Tensor:
        raise ConfigurationError("validator='next_rollouts' scores no rollouts but those of the step under way.")
