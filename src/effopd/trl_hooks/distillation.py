"""`HookedDistillationTrainer`: TRL's trainer with public methods where it has only private ones to override."""

import time
from typing import Any, NamedTuple

import torch
from trl import DistillationTrainer
from typing_extensions import override

from effopd.trl_hooks.divergence import DivergenceLoss, LossOfBatch, divergence_loss, no_loss, replaced_loss
from effopd.trl_hooks.teacher import shard_frozen
from effopd.trl_hooks.trainer import seconds_since
from effopd.trl_hooks.vllm import ENGINE_LOGPROBS, engine_logprobs, pad_engine_logprobs


class ReferenceOutput(NamedTuple):
    """What the reference model makes of a micro-batch, in the form in which a `DivergenceLoss` is given the teacher.

    Attributes:
        states: Its last hidden states at the positions that predict the completion's tokens, [B, T, H].
        head: Weight of its head, [V, H].
        settings: Bias, logit scale and soft cap of its head, by the names that those of the teacher have.
    """

    states: torch.Tensor
    head: torch.Tensor
    settings: dict[str, Any]


class HookedDistillationTrainer(DistillationTrainer):
    """TRL's `DistillationTrainer`, which tells a subclass what it does while it trains.

    A subclass overrides `on_rollouts`, `on_teacher_pass`, `on_reference_pass` and `training_loss`. They are called only
    in training mode, and so neither for evaluation nor for validation.

    Args:
        *args: Arguments of `DistillationTrainer`.
        reference_model: Frozen model that `training_loss` may read beside the teacher, which TRL has no place for; None
            for none. Its vocabulary must be the teacher's.
        **kwargs: Arguments of `DistillationTrainer`.

    Attributes:
        reference_model: The reference model, prepared as TRL prepares the teacher, or None.
        effopd_trains_again: Whether it trains on rollouts that it has trained on before.
        effopd_weighs_tokens: Whether its loss needs to know how the tokens were sampled, as `SAMPLING_LOGPROBS`.
        effopd_asks_engine: Whether its batches are to have `ENGINE_LOGPROBS` where vLLM samples them.
    """

    teacher_model: Any
    effopd_trains_again = False
    effopd_weighs_tokens = False
    effopd_asks_engine = False

    def __init__(self, *args: Any, reference_model: Any = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.teacher_model = shard_frozen(self.teacher_model, self.accelerator)
        if reference_model is not None:
            reference_model = self.accelerator.prepare_model(reference_model, evaluation_mode=True)
        self.reference_model = shard_frozen(reference_model, self.accelerator)

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

    def on_reference_pass(self, seconds: float) -> None:
        """This is called when the reference model has read a micro-batch; by default it does nothing.

        Args:
            seconds: Wall time of `read_reference`, in seconds.
        """

    def training_loss(self, batch: dict[str, Any]) -> DivergenceLoss:
        """Return the loss to train on.

        Args:
            batch: Micro-batch under way; `completion_ids` and `completion_mask` are int64 [B, T].
        """
        return divergence_loss()

    def read_reference(self, batch: dict[str, Any]) -> ReferenceOutput:
        """Let the reference model read a micro-batch, without gradients. Only `training_loss` may call this.

        TRL runs it as it runs the teacher, so that sharded weights are gathered and every kind of head is understood.
        """
        found: list[ReferenceOutput] = []

        def keep(*args: Any, **kwargs: Any) -> LossOfBatch:
            _, states_BTH, _, head_VH, mask_BT, _ = args
            settings = {name: value for name, value in kwargs.items() if name.startswith("teacher_")}
            found.append(ReferenceOutput(states_BTH, head_VH, settings))
            return no_loss(mask_BT)

        started = time.perf_counter()
        teacher, self.teacher_model = self.teacher_model, self.reference_model
        try:
            with torch.no_grad(), replaced_loss(keep):
                super()._compute_loss(self.accelerator.unwrap_model(self.model_wrapped), batch, 1)
        finally:
            self.teacher_model = teacher
        self.on_reference_pass(seconds_since(started, self))
        return found[0]

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
            self.on_rollouts(self._effopd_examples, output[1], seconds_since(started, self))
        return output

    @override
    def _get_last_hidden_state(self, unwrapped_model: Any, input_ids: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        is_teacher = unwrapped_model is self.accelerator.unwrap_model(self.teacher_model)
        reads_reference = self.reference_model is not None and self.teacher_model is self.reference_model
        if reads_reference and not is_teacher:
            return input_ids.new_empty(0)  # the student's, which have been computed already, and are not looked at
        started = time.perf_counter()
        hidden = super()._get_last_hidden_state(unwrapped_model, input_ids, *args, **kwargs)
        if self.model.training and is_teacher and not reads_reference:
            self.on_teacher_pass(seconds_since(started, self))
        return hidden

    @override
    def _compute_loss(self, unwrapped_student: Any, inputs: dict[str, Any], num_items_in_batch: Any) -> Any:
        if not self.model.training:
            return super()._compute_loss(unwrapped_student, inputs, num_items_in_batch)
        with replaced_loss(self.training_loss(inputs)):
            return super()._compute_loss(unwrapped_student, inputs, num_items_in_batch)
