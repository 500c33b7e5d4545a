"""When a run evaluates and where it stops, for runs that ask how much reaching a target accuracy costs."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from accelerate.utils import gather
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from typing_extensions import override

from effopd import trl_hooks
from effopd.errors import ConfigurationError
from effopd.extrapolation.callback import EffOPDCallback
from effopd.extrapolation.validation import RewardFunction, RewardValidator
from effopd.training.metrics import MetricsCallback
from effopd.training.trainer import OPDTrainer

EVERY_STEP_UP_TO = 16
RECENT_ROLLOUTS = 128  # of fewer, the mean reward says too little


def is_evaluation_step(step: int) -> bool:
    """Whether a step is on the evaluation grid: every step up to 16, then 16 evenly spaced steps in each doubling.

    From 16 on, the distance to the next step of the grid is at most 1/16 of the step. All powers of two are on it.
    """
    if step <= EVERY_STEP_UP_TO:
        return step >= 1
    return step % (1 << (step.bit_length() - EVERY_STEP_UP_TO.bit_length())) == 0


class EvaluateNearTarget(TrainerCallback):
    """Asks for an evaluation where the accuracy may have reached a target, without paying for one after every step.

    It asks at the steps of `is_evaluation_step`, whenever the step's own rollouts, sampled before its update, were
    rewarded with at least `target - margin` on average, and after every accepted extrapolation. Where a step has fewer
    than 128 rollouts, those of the steps before it are averaged as well, until there are so many. The trainer then
    evaluates whatever its `eval_strategy` is; it needs an `eval_dataset` and an `evaluation_reward`. The rewards of the
    steps before are in no checkpoint, so that with fewer than 128 rollouts a resumed run may evaluate at other steps.

    Args:
        trainer: Trainer that this callback is added to.
        target: Accuracy to be reached.
        reward: Reward function that scores the step's rollouts, or several, which are summed.
        margin: Distance below the target at which the rollouts' mean reward already asks for an evaluation. The mean of
            256 rollouts at an accuracy of 0.95 has a standard error of 0.014.

    Raises:
        ConfigurationError: The trainer has nothing to evaluate on.
    """

    def __init__(
        self,
        trainer: OPDTrainer,
        target: float,
        reward: RewardFunction | Sequence[RewardFunction],
        margin: float = 0.04,
    ) -> None:
        if trainer.eval_dataset is None:
            raise ConfigurationError(
                "EvaluateNearTarget got a trainer without eval_dataset, so there is nothing to evaluate on. Set "
                "evaluation_dataset_name, or pass eval_dataset and evaluation_reward to OPDTrainer."
            )
        self.trainer = trainer
        self.threshold = target - margin
        self._scorer = RewardValidator(reward)
        self._recent: list[torch.Tensor] = []  # rewards of the last steps' rollouts, the newest last

    @override
    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        rollout_reward = self._rollout_reward()  # first, because every process must take part in computing it
        if (
            is_evaluation_step(state.global_step)
            or rollout_reward >= self.threshold
            or self._accepted_at(state.global_step)
        ):
            control.should_evaluate = True

    def _rollout_reward(self) -> float:
        """Mean reward of the rollouts that this step trained on and of recent ones, over all processes."""
        examples, completion_ids = self.trainer.step_rollouts
        rollouts = trl_hooks.make_rollouts(self.trainer, examples, [[]] * len(examples), completion_ids)
        scores = self._scorer.scores(self.trainer, rollouts)
        self._recent.append(gather(scores.to(self.trainer.accelerator.device, torch.float32)))
        while sum(map(len, self._recent[1:])) >= RECENT_ROLLOUTS:
            del self._recent[0]
        return float(torch.cat(self._recent).nanmean())

    def _accepted_at(self, step: int) -> bool:
        """Whether an extrapolation was accepted after this step."""
        return any(
            callback.last is not None and callback.last["step"] == step and callback.last["accepted_scale"] != 0
            for callback in self.trainer.callback_handler.callbacks
            if isinstance(callback, EffOPDCallback)
        )


class StopAtAccuracy(TrainerCallback):
    """Stops training when an evaluation reaches a target accuracy.

    Args:
        target: Accuracy at which training stops.
    """

    def __init__(self, target: float) -> None:
        self.target = target

    @override
    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if metrics and metrics.get("eval_accuracy", float("-inf")) >= self.target:
            control.should_training_stop = True


class StopWithoutImprovement(TrainerCallback):
    """Stops training when several evaluations in a row were no better than the best before them.

    It looks at the trainer's log, which a checkpoint has, so that a run that continues stops where it would have.
    transformers' `EarlyStoppingCallback` needs settings of its own (`metric_for_best_model`, `load_best_model_at_end`).

    Args:
        patience: Number of evaluations in a row, at least 1.
    """

    def __init__(self, patience: int) -> None:
        self.patience = patience

    @override
    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        # By step, because eval_on_start measures a run that continues a second time.
        found = {entry["step"]: entry["eval_accuracy"] for entry in state.log_history if "eval_accuracy" in entry}
        accuracies = [-math.inf if math.isnan(accuracy) else accuracy for accuracy in found.values()]
        if accuracies and len(accuracies) - 1 - accuracies.index(max(accuracies)) >= self.patience:
            control.should_training_stop = True


class StopAtRollouts(TrainerCallback):
    """Evaluates and stops once a run has spent a number of rollouts, those of validation included.

    The step under way is finished first, so the run may spend that much more.

    Args:
        metrics: Callback of the same trainer that counts the rollouts.
        limit: Number of rollouts at which the run stops.
    """

    def __init__(self, metrics: MetricsCallback, limit: int) -> None:
        self.metrics = metrics
        self.limit = limit

    @override
    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.metrics.row is not None and self.metrics.row["rollouts"] >= self.limit:
            control.should_evaluate = control.should_training_stop = True
