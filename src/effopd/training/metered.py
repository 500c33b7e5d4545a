"""What the trainers of all methods share: the cost of each step, and accuracy as evaluation."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import Trainer, TrainerControl
from typing_extensions import override

from effopd.extrapolation.validation import RewardFunction, RewardValidator, validate


@dataclass
class StepMeter:
    """What this process's part of one optimizer step did and cost.

    Attributes:
        loss: Loss, summed over the micro-batches.
        reverse_kl: Reverse KL from student to teacher in nats per token, summed over the micro-batches; 0 without a
            teacher.
        rollouts: Number of completions sampled.
        generated_tokens: Number of tokens in them.
        teacher_tokens: Number of completion tokens that the teacher scored.
        reference_tokens: Number of completion tokens that the reference model scored, that of ExOPD or of a KL term.
        generation_seconds: Wall time of sampling, in seconds.
        teacher_seconds: Wall time of the teacher's forward passes, in seconds.
        reference_seconds: Wall time of the reference model's forward passes, in seconds.
    """

    loss: float = 0.0
    reverse_kl: float = 0.0
    rollouts: int = 0
    generated_tokens: int = 0
    teacher_tokens: int = 0
    reference_tokens: int = 0
    generation_seconds: float = 0.0
    teacher_seconds: float = 0.0
    reference_seconds: float = 0.0


class MeteredTrainer(Trainer):
    """A part of each trainer, to be named before TRL's in its list of bases.

    Args:
        *args: Arguments of TRL's trainer.
        evaluation_reward: Reward function, or several to be summed. With it, `evaluate()` measures as `eval_accuracy`
            the mean reward of one sampled answer to each prompt of `eval_dataset`, always with the same random numbers.
            Without it, `evaluate()` measures what TRL's does.
        **kwargs: Arguments of TRL's trainer.

    Attributes:
        meter: Cost of the step under way. Whoever reads it at the end of a step sets a new one.
        evaluation_seconds: Wall time spent in `evaluate()` so far, in seconds; it is no part of the cost of training.
        write_card: Function that writes the model card, given the model's tags; None leaves it to TRL.
    """

    def __init__(
        self,
        *args: Any,
        evaluation_reward: RewardFunction | Sequence[RewardFunction] | None = None,
        **kwargs: Any,
    ) -> None:
        self.meter = StepMeter()
        self.evaluation_seconds = 0.0
        self.write_card: Callable[[Iterable[str]], None] | None = None
        self._accuracy = RewardValidator(evaluation_reward) if evaluation_reward is not None else None
        super().__init__(*args, **kwargs)

    @override
    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Measure the mean reward on the evaluation prompts, or, without an `evaluation_reward`, what TRL measures."""
        started = time.perf_counter()
        if self._accuracy is None:
            metrics: dict[str, float] = super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        else:
            rows = self.eval_dataset if eval_dataset is None else eval_dataset
            score = validate(self, self._accuracy, list(rows), self.args.seed)
            metrics = {
                f"{metric_key_prefix}_accuracy": score.value,
                f"{metric_key_prefix}_accuracy_stderr": score.stderr,
            }
            was_training = self.model.training
            self.model.eval()  # so that TRL logs this apart from the training metrics
            self.log(metrics)
            self.model.train(was_training)
            self.control: TrainerControl = self.callback_handler.on_evaluate(
                self.args, self.state, self.control, metrics
            )
        self.evaluation_seconds += time.perf_counter() - started
        return metrics

    @override
    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write the model card, by `write_card` if that is set. It is called before checkpoints are saved or pushed."""
        if self.write_card is None:
            super().create_model_card(*args, **kwargs)
        elif self.is_world_process_zero():
            self.write_card(getattr(self.model, "model_tags", None) or ())

    def count_rollouts(self, completion_ids: list[list[int]], seconds: float) -> None:
        """Add completions that were sampled to train on, given by their token ids, and the seconds that it took."""
        self.meter.rollouts += len(completion_ids)
        self.meter.generated_tokens += sum(map(len, completion_ids))
        self.meter.generation_seconds += seconds
