"""How good the live weights are: validators score completions that the student itself samples.

`RewardValidator` is that of the paper: the mean verifiable reward of one sampled answer per prompt.
`TeacherKLValidator` needs no verifier, and `SharedKLValidator` samples only once for all candidates. Each gives every
rollout a score, of which higher is better; `validate` spreads the prompts over the processes, and takes the mean.
"""

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from accelerate.utils import gather
from typing_extensions import override

from effopd import trl_hooks
from effopd.errors import ConfigurationError
from effopd.extrapolation.search import Score
from effopd.trl_hooks import Rollout

RewardFunction = Callable[..., Any]


class Validator(ABC):
    """Scores rollouts. A validator of your own is a subclass.

    Attributes:
        teacher_passes: Number of times that the teacher reads each rollout.
        is_new: Whether the rollouts scored last were sampled, and read by the teacher, for that score.
        is_paired: Whether all weights of a trigger are scored on the same rollouts.
    """

    teacher_passes: int = 0
    is_new: bool = True
    is_paired: bool = False

    def check(self, trainer: Any) -> None:
        """Raise a ConfigurationError if this trainer lacks what the validator needs."""
        return

    def try_out(self, trainer: Any, example: dict[str, Any]) -> None:
        """Raise a ConfigurationError if scoring cannot work. This is called once before training, and is collective."""
        return

    def of_trigger(self) -> "Validator":
        """Return the validator of one trigger's candidates: this one, or one that keeps what they have in common."""
        return self

    def confirmation(self) -> "Validator | None":
        """Return the validator that scores an accepted candidate on its own completions; None if this one does so."""
        return None

    def rollouts(self, trainer: Any, examples: Sequence[dict[str, Any]], seed: int) -> list[Rollout]:
        """Return one rollout for each example; by default, sample them from the live weights. This is collective."""
        return trl_hooks.generate(trainer, examples, seed)

    @abstractmethod
    def scores(self, trainer: Any, rollouts: Sequence[Rollout]) -> torch.Tensor:
        """Score each rollout: float32 [len(rollouts)], where higher is better. This is collective."""


class RewardValidator(Validator):
    """Scores by the sum of verifiable rewards (arXiv 2605.11739, EffOPD: V is the mean score on the validation set).

    Args:
        reward: Reward function, or several, with TRL's signature: called with the lists `prompts`, `completions`,
            `completion_ids` and the dataset's other columns, it returns a number for each, or None where it does not
            apply. With None, the trainer's own `reward_funcs` and `reward_weights` (GRPO) are used.
        weights: Weights of the functions, 1 each by default.
    """

    def __init__(
        self,
        reward: RewardFunction | Sequence[RewardFunction] | None = None,
        weights: Sequence[float] | None = None,
    ) -> None:
        self.functions = [] if reward is None else [reward] if callable(reward) else list(reward)
        self.weights = list(weights) if weights is not None else [1.0] * len(self.functions)

    @override
    def check(self, trainer: Any) -> None:
        """Take the trainer's own rewards if none were given, and check them."""
        if not self.functions and getattr(trainer, "reward_funcs", None):
            self.functions = list(trainer.reward_funcs)
            self.weights = trainer.reward_weights.tolist()
        if not self.functions:
            raise ConfigurationError(
                f"Validation by reward needs a reward function, and {type(trainer).__name__} has none of its own. "
                "Pass reward=FUNCTION (TRL's reward signature), or validator='teacher_kl', which needs none."
            )
        models = [function for function in self.functions if isinstance(function, torch.nn.Module)]
        if models or any(not callable(function) for function in self.functions):
            raise ConfigurationError(
                "Validation by reward needs callable reward functions; got "
                f"{[type(function).__name__ for function in self.functions]}. Pass reward=FUNCTION to the callback."
            )
        if len(self.weights) != len(self.functions):
            raise ConfigurationError(
                f"Got {len(self.weights)} reward weights for {len(self.functions)} reward functions; give one each."
            )

    @override
    def try_out(self, trainer: Any, example: dict[str, Any]) -> None:
        """Reward an empty completion, so that a function that cannot work is found before training."""
        names = ", ".join(getattr(function, "__name__", repr(function)) for function in self.functions)
        try:
            with trl_hooks.seeded_per_process(trainer, 0):
                self.scores(trainer, [trl_hooks.empty_rollout(copy.deepcopy(example))])
        except ConfigurationError:
            raise
        except Exception as error:
            raise ConfigurationError(
                f"Rewarding an empty completion failed, which a model may always write ({names}): "
                f"{type(error).__name__}: {error}. The rows have the columns {', '.join(example)}."
            ) from error

    @override
    def scores(self, trainer: Any, rollouts: Sequence[Rollout]) -> torch.Tensor:
        """Compute the weighted sum of each rollout's rewards, to which None and NaN add nothing; if all are, it is NaN.

        `validate` leaves such rollouts out of the mean. Both is as TRL's `GRPOTrainer` does.
        """
        columns = {key: [rollout.example[key] for rollout in rollouts] for key in rollouts[0].example}
        for ours in ("completion", "completion_ids"):
            columns.pop(ours, None)
        prompts = columns.pop("prompt")
        total, is_judged = torch.zeros(len(rollouts)), torch.zeros(len(rollouts), dtype=torch.bool)
        results = [
            function(
                prompts=prompts,
                completions=[rollout.completion for rollout in rollouts],
                completion_ids=[rollout.completion_ids for rollout in rollouts],
                **columns,
                trainer_state=trainer.state,
                log_extra=_ignore,
                log_metric=_ignore,
            )
            for function in self.functions
        ]
        results = trl_hooks.wait_for(trainer, results)
        for function, values, weight in zip(self.functions, results, self.weights, strict=True):
            check_rewards(function, values, len(rollouts))
            given = torch.tensor([math.nan if value is None else float(value) for value in values])
            is_judged |= ~given.isnan()
            total += weight * given.nan_to_num(nan=0.0, posinf=math.inf, neginf=-math.inf)
        return total.masked_fill(~is_judged, math.nan)


class TeacherKLValidator(Validator):
    """Scores by minus the reverse KL from student to teacher, in nats, over each sampled completion.

    The exact KL of the next-token distributions is summed over the tokens of the completion, which estimates the
    objective of OPD (arXiv 2605.11739, Preliminaries) without the noise of the sampled log-ratio.
    """

    teacher_passes = 1
    _teacher_states: dict[int, torch.Tensor] | None = None  # with None, nothing is kept

    @override
    def check(self, trainer: Any) -> None:
        """Refuse trainers without a teacher of their own."""
        if getattr(trainer, "teacher_model", None) is None:
            raise ConfigurationError(
                f"Validation by KL needs a trainer with a teacher model; {type(trainer).__name__} has none. "
                "Use validator='reward'."
            )

    @override
    def scores(self, trainer: Any, rollouts: Sequence[Rollout]) -> torch.Tensor:
        divergences = trl_hooks.divergence_per_rollout(trainer, rollouts, self._teacher_states)
        return -torch.stack(divergences).float().cpu()


class SharedKLValidator(TeacherKLValidator):
    """Scores by minus the reverse KL from student to teacher, in nats, every candidate on completions that W_t sampled.

    The completions are sampled, and read by the teacher, once for each trigger, so that a candidate costs only a
    forward pass of the student. All candidates are compared at the same prefixes, without the noise of sampling. What a
    candidate would write otherwise than W_t is not seen there, so the accepted one is scored once more, on completions
    of its own.
    """

    is_paired = True

    def __init__(self) -> None:
        self._rollouts: list[Rollout] = []
        self._teacher_states = {}

    @override
    def of_trigger(self) -> "SharedKLValidator":
        """Return a new validator, which keeps rollouts and the teacher's hidden states from candidate to candidate."""
        return SharedKLValidator()

    @override
    def confirmation(self) -> Validator:
        """Return a validator by the same score, on completions that the candidate samples."""
        return TeacherKLValidator()

    @override
    def rollouts(self, trainer: Any, examples: Sequence[dict[str, Any]], seed: int) -> list[Rollout]:
        """Sample when called first, which is for W_t; return the same rollouts afterwards."""
        self.is_new = not self._rollouts
        if self.is_new:
            self._rollouts = super().rollouts(trainer, examples, seed)
        return self._rollouts


def check_rewards(function: RewardFunction, values: Any, number: int) -> None:
    """Check what a reward function returned for `number` completions.

    Raises:
        ConfigurationError: The function did not return one number, or None, for each completion.
    """
    name = getattr(function, "__name__", repr(function))
    expected = "it must return one number for each, None where it does not apply."
    if not hasattr(values, "__len__") or isinstance(values, str):
        raise ConfigurationError(f"Reward function {name!r} returned {values!r} for {number} completions; {expected}")
    if len(values) != number:
        raise ConfigurationError(
            f"Reward function {name!r} returned {len(values)} rewards for {number} completions; {expected}"
        )
    for value in values:
        if isinstance(value, str) or not (value is None or hasattr(value, "__float__")):
            raise ConfigurationError(f"Reward function {name!r} returned the reward {value!r}; {expected}")


def validate(trainer: Any, validator: Validator, examples: Sequence[dict[str, Any]], seed: int) -> Score:
    """Score the live weights on examples, which are spread over the processes. This is collective.

    Args:
        trainer: TRL trainer that generates.
        validator: Validator to score by.
        examples: Rows with a `prompt`, the same on every process, and at least as many as there are processes.
        seed: Random seed for sampling. The same seed gives two sets of weights the same random numbers, as far as the
            generation backend draws them per prompt.

    Returns:
        Mean and standard error over the examples whose score is a number, and the cost of all processes. Where the
        examples cannot be divided evenly, some are sampled twice; the second time counts as cost and not towards the
        score.
    """
    accelerator = trainer.accelerator
    world, rank = accelerator.num_processes, accelerator.process_index
    share = -(-len(examples) // world)
    indices = [(rank * share + i) % len(examples) for i in range(share)]
    own = [copy.deepcopy(examples[i]) for i in indices]  # so that a reward cannot change what is asked later
    rollouts = validator.rollouts(trainer, own, seed)
    with trl_hooks.seeded_per_process(trainer, seed):  # rewards may draw random numbers too
        scores = validator.scores(trainer, rollouts).to(accelerator.device, torch.float32)
    tokens = torch.tensor([sum(len(rollout.completion_ids) for rollout in rollouts)], device=accelerator.device)
    all_scores = gather(scores)[: len(examples)].double().cpu()
    num_tokens = int(gather(tokens).sum()) * validator.is_new
    judged = all_scores[~all_scores.isnan()]
    return Score(
        value=judged.mean().item(),
        stderr=(judged.std() / math.sqrt(len(judged))).item() if len(judged) > 1 else math.nan,
        rollouts=share * world * validator.is_new,
        generated_tokens=num_tokens,
        teacher_tokens=num_tokens * validator.teacher_passes,
        values=tuple(all_scores.tolist()) if validator.is_paired else (),
    )


def _ignore(*args: Any, **kwargs: Any) -> None:
    """Drop what a reward function logs while validating, which is no part of training's log."""
