"""`OPDTrainer`: TRL's DistillationTrainer with the `sampled` estimator, accuracy as evaluation, and its cost metered.

Shape suffixes: B sequences, T completion tokens, H hidden size, V vocabulary.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import TrainerControl
from trl import DistillationTrainer
from trl.kernels.chunked_logprob import ChunkedLogProbFunction

from effopd import trl_hooks
from effopd.extrapolation.validation import RewardFunction, RewardValidator, validate
from effopd.objectives import sampled_reverse_kl
from effopd.training.config import OPDConfig

# Vocabulary columns projected at a time when only sampled tokens' log-probabilities are needed.
VOCABULARY_CHUNK = 8192


@dataclass
class StepMeter:
    """What this process's part of one optimizer step did and cost. Times are wall seconds."""

    loss: float = 0.0
    reverse_kl: float = 0.0
    rollouts: int = 0
    generated_tokens: int = 0
    teacher_tokens: int = 0
    generation_seconds: float = 0.0
    teacher_seconds: float = 0.0


class OPDTrainer(DistillationTrainer):
    """On-policy distillation (arXiv 2605.11739, Preliminaries) on TRL's `DistillationTrainer`.

    Args:
        *args: As for `DistillationTrainer`; `args` is an `OPDConfig`.
        evaluation_reward: With it, `evaluate()` measures the mean reward of one sampled answer to each prompt of
            `eval_dataset`, always with the same random numbers, as `eval_accuracy`. Without it, TRL's divergence.
        **kwargs: As for `DistillationTrainer`.

    Attributes:
        meter: Cost of the step under way; whoever reads it at the end of a step sets a new one.
        step_rollouts: This process's examples of the step under way, with the ids that were sampled for them.
        evaluation_seconds: Spent in `evaluate()` so far; no part of the cost of training.
    """

    args: OPDConfig

    def __init__(
        self,
        *args: Any,
        evaluation_reward: RewardFunction | Sequence[RewardFunction] | None = None,
        **kwargs: Any,
    ) -> None:
        self.meter = StepMeter()
        self.step_rollouts: tuple[list[dict[str, Any]], list[list[int]]] = ([], [])
        self.evaluation_seconds = 0.0
        super().__init__(*args, **kwargs)
        self._evaluation = RewardValidator(evaluation_reward) if evaluation_reward is not None else None

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Mean reward on the evaluation prompts (see `evaluation_reward`), or TRL's own evaluation without one."""
        started = time.perf_counter()
        if self._evaluation is None:
            metrics: dict[str, float] = super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        else:
            rows = self.eval_dataset if eval_dataset is None else eval_dataset
            score = validate(self, self._evaluation, list(rows), self.args.seed)
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

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """One micro-batch, adding its loss to the meter."""
        loss: torch.Tensor = super().training_step(*args, **kwargs)
        self.meter.loss += loss.item()
        return loss

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        if self.model.training:
            self.step_rollouts = (inputs, [])
        output: dict[str, Any] = super()._generate_and_score_completions(inputs)
        return output

    def _generate(self, prompts: list[Any]) -> tuple[Any, ...]:
        started = time.perf_counter()
        output: tuple[Any, ...] = super()._generate(prompts)
        if self.model.training:
            completion_ids = output[1]
            self.step_rollouts = (self.step_rollouts[0], completion_ids)
            self.meter.rollouts += len(completion_ids)
            self.meter.generated_tokens += sum(map(len, completion_ids))
            self.meter.generation_seconds += self._seconds_since(started)
        return output

    def _get_last_hidden_state(self, unwrapped_model: Any, input_ids: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter()
        hidden = super()._get_last_hidden_state(unwrapped_model, input_ids, *args, **kwargs)
        if self.model.training and unwrapped_model is self.accelerator.unwrap_model(self.teacher_model):
            self.meter.teacher_seconds += self._seconds_since(started)
        return hidden

    def _compute_loss(self, unwrapped_student: Any, inputs: dict[str, Any], num_items_in_batch: Any) -> Any:
        if not self.model.training:
            return super()._compute_loss(unwrapped_student, inputs, num_items_in_batch)
        self.meter.teacher_tokens += int(inputs["completion_mask"].sum())
        divergence = trl_hooks.divergence_loss()

        def full_vocab(*args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
            *tensors, beta = args
            result = divergence(*tensors, beta, **kwargs)
            reverse_kl = result[0].detach()
            if beta != 1.0:
                with torch.no_grad():
                    reverse_kl = divergence(*tensors, 1.0, **kwargs)[0]
            self.meter.reverse_kl += reverse_kl.item()
            return result

        def sampled(*args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
            loss, reverse_kl, entropy, num_tokens = _sampled_loss(*args, targets_BT=inputs["completion_ids"], **kwargs)
            self.meter.reverse_kl += reverse_kl.item()
            return loss, entropy, num_tokens

        with trl_hooks.replaced_loss(sampled if self.args.estimator == "sampled" else full_vocab):
            return super()._compute_loss(unwrapped_student, inputs, num_items_in_batch)

    def _seconds_since(self, started: float) -> float:
        if self.accelerator.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started


def _sampled_loss(
    student_BTH: torch.Tensor,
    teacher_BTH: torch.Tensor,
    student_head_VH: torch.Tensor,
    teacher_head_VH: torch.Tensor,
    mask_BT: torch.Tensor,
    beta: float,
    *,
    targets_BT: torch.Tensor,
    num_items_in_batch: torch.Tensor | float,
    temperature: float,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Loss and reverse KL (per token), entropy (summed) and number of tokens, from hidden states and heads."""

    def logprobs(role: str, hidden_BTH: torch.Tensor, head_VH: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if isinstance(head_VH, torch.distributed.tensor.DTensor):
            head_VH = head_VH.full_tensor().to(hidden_BTH.dtype)
        bias = kwargs[f"{role}_lm_head_bias"]
        if isinstance(bias, torch.distributed.tensor.DTensor):
            bias = bias.full_tensor()
        values, entropy, *_ = ChunkedLogProbFunction.apply(
            hidden_BTH.flatten(0, 1),
            head_VH,
            bias,
            targets_BT.flatten(),
            temperature,
            VOCABULARY_CHUNK,
            kwargs[f"{role}_final_logit_softcapping"],
            kwargs[f"{role}_logit_scale"],
            ("entropy",),
        )
        return values.view(mask_BT.shape), entropy.view(mask_BT.shape)

    student_BT, entropy_BT = logprobs("student", student_BTH, student_head_VH)
    with torch.no_grad():
        teacher_BT, _ = logprobs("teacher", teacher_BTH, teacher_head_VH)
    loss, reverse_kl = sampled_reverse_kl(student_BT, teacher_BT, mask_BT)
    entropy = (entropy_BT.detach() * mask_BT).sum()
    return loss / num_items_in_batch, reverse_kl / num_items_in_batch, entropy, mask_BT.sum()
