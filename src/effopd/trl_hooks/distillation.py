"""`HookedDistillationTrainer`: TRL's trainer with public methods where it has only private ones to override."""

import time
from typing import Any

import torch
from trl import DistillationTrainer
from typing_extensions import override

from effopd.trl_hooks.divergence import DivergenceLoss, divergence_loss, replaced_loss
from effopd.trl_hooks.teacher import shard_teacher
from effopd.trl_hooks.vllm import ENGINE_LOGPROBS, engine_logprobs, pad_engine_logprobs


class HookedDistillationTrainer(DistillationTrainer):
    """TRL's `DistillationTrainer`, which tells a subclass what it does while it trains.

    A subclass overrides `on_rollouts`, `on_teacher_pass` and `training_loss`. They are called only in training mode,
    and so neither for evaluation nor for validation.

    Attributes:
        effopd_trains_again: Whether it trains on rollouts that it has trained on before.
        effopd_weighs_tokens: Whether its loss needs to know how the tokens were sampled, as `SAMPLING_LOGPROBS`.
        effopd_asks_engine: Whether its batches are to have `ENGINE_LOGPROBS` where vLLM samples them.
    """

    effopd_trains_again = False
    effopd_weighs_tokens = False
    effopd_asks_engine = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        shard_teacher(self)

    def on_rollouts(self, examples: list[dict[str, Any]], completion_ids: list[list[int]], seconds: float) -> None:
        """This is called when completions were sampled for the step under way; by default it does nothing.

        Args:
            examples: This process's rows of the dataset.
            completion_ids: Token ids of the completion of each, unpadded.
            seconds: Wall time of sampling, in seconds.
        """

    def on_teacher_pass(self, seconds: float) -> None:
        """This is called when the teacher has read a micro-batch; by default it does nothing.

        Args:
            seconds: Wall time of the teacher's forward pass, in seconds.
        """

    def training_loss(self, batch: dict[str, Any]) -> DivergenceLoss:
        """Return the loss to train on.

        Args:
            batch: Micro-batch under way; `completion_ids` and `completion_mask` are int64 [B, T].
        """
        return divergence_loss()

    @override
    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        self._effopd_examples = inputs
        with engine_logprobs(self, wanted=self.effopd_asks_engine and self.model.training) as reported:
            output: dict[str, Any] = super()._generate_and_score_completions(inputs)
        if reported:
            output[ENGINE_LOGPROBS] = pad_engine_logprobs(reported, output["completion_mask"])
        return output

    @override
    def _generate(self, prompts: list[Any]) -> tuple[Any, ...]:
        started = time.perf_counter()
        output: tuple[Any, ...] = super()._generate(prompts)
        if self.model.training:
            self.on_rollouts(self._effopd_examples, output[1], self._effopd_seconds_since(started))
        return output

    @override
    def _get_last_hidden_state(self, unwrapped_model: Any, input_ids: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter()
        hidden = super()._get_last_hidden_state(unwrapped_model, input_ids, *args, **kwargs)
        if self.model.training and unwrapped_model is self.accelerator.unwrap_model(self.teacher_model):
            self.on_teacher_pass(self._effopd_seconds_since(started))
        return hidden

    @override
    def _compute_loss(self, unwrapped_student: Any, inputs: dict[str, Any], num_items_in_batch: Any) -> Any:
        if not self.model.training:
            return super()._compute_loss(unwrapped_student, inputs, num_items_in_batch)
        with replaced_loss(self.training_loss(inputs)):
            return super()._compute_loss(unwrapped_student, inputs, num_items_in_batch)

    def _effopd_seconds_since(self, started: float) -> float:
        if self.accelerator.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started
