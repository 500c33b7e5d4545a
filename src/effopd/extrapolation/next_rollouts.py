"""Scoring candidates on the rollouts that the next step has sampled from W_t, before it trains on them.

These rollouts are new to the direction `W_t - W_anchor`, which was computed from earlier ones, and they are needed
anyway. So validation costs neither rollouts nor a pass of the teacher, but only forward passes of the student.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from trl import DistillationTrainer, GRPOTrainer
from typing_extensions import override

from effopd import trl_hooks
from effopd.errors import ConfigurationError, UnsupportedError
from effopd.extrapolation.search import Score
from effopd.extrapolation.validation import Validator


class NextRolloutsValidator(Validator):
    """Scores by the rollouts that the next step has sampled from W_t, before it trains on them.

    With a teacher, the score is minus the exact reverse KL from student to teacher, in nats per completion; with
    rewards, the expected advantage over W_t. What a candidate would write otherwise than W_t is not seen there; its
    distance to W_t on the same tokens is measured too, for a trust region.

    Attributes:
        step: Rollouts of the step under way; None before `watch`.
    """

    def __init__(self) -> None:
        self.step: trl_hooks.StepRollouts | None = None

    @override
    def check(self, trainer: Any) -> None:
        if not isinstance(trainer, DistillationTrainer | GRPOTrainer):
            raise ConfigurationError(
                f"validator='next_rollouts' scores on the rollouts of one step of TRL's DistillationTrainer or "
                f"GRPOTrainer; got {type(trainer).__name__}. Use preset='paper'."
            )
        if getattr(trainer.args, "optim", None) == "adagrad":
            raise UnsupportedError(
                "optim='adagrad' fills its state once and for all, and the line search empties the optimizer's state "
                "after each jump. Use another, such as optim='adamw_torch'."
            )
        columns = set(getattr(trainer.train_dataset, "column_names", None) or ())
        if {"image", "images"} & columns:
            raise UnsupportedError(
                "The training dataset has images, which validator='next_rollouts' does not score. Train without "
                "acceleration."
            )
        if isinstance(trainer, GRPOTrainer):
            _check_grpo(trainer)

    def watch(self, trainer: Any, on_sampled: Callable[[], None], num_rollouts: int, passes: int) -> None:
        """Call `on_sampled` at each step from now on, between sampling its rollouts and training on them."""
        make = trl_hooks.GroupRollouts if isinstance(trainer, GRPOTrainer) else trl_hooks.DistillationRollouts
        self.step = make(trainer, on_sampled, num_rollouts, passes)

    def score_live(self) -> Score:
        """Score the live weights. This is collective. The first call of a step must be for W_t."""
        assert self.step is not None
        values, kl_to_current = self.step.score()
        return Score.of(values.tolist(), kl_to_current=kl_to_current)

    def note_sampler(self) -> None:
        """Note how W_t, which is live, sampled the rollouts, if the trainer needs that to train other weights on them.

        An estimator that takes expectations over the sampled tokens does; one over the vocabulary at each prefix does
        not. This is collective.
        """
        assert self.step is not None
        trl_hooks.publish_weights(self.step.trainer)
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


def _check_grpo(trainer: Any) -> None:
    """Refuse settings with which a step is not one batch of rollouts, or does not compute log-probabilities."""
    args = trainer.args
    if args.num_iterations != 1 or args.steps_per_generation != args.gradient_accumulation_steps:
        raise UnsupportedError(
            f"validator='next_rollouts' needs one optimizer step for each batch of rollouts; got num_iterations="
            f"{args.num_iterations}, steps_per_generation={args.steps_per_generation} and gradient_accumulation_steps="
            f"{args.gradient_accumulation_steps}. Set num_iterations=1, leave steps_per_generation out, and let the "
            "line search make the passes: passes=4."
        )
    if args.use_liger_kernel:
        raise UnsupportedError(
            "use_liger_kernel=True computes GRPO's loss without the log-probabilities of tokens, which "
            "validator='next_rollouts' needs. Set use_liger_kernel=False."
        )
