"""`OPDTrainer`: TRL's DistillationTrainer with `sampled`, ExOPD, accuracy as evaluation, and its cost metered.

Shape suffixes: B sequences, T completion tokens, H hidden size, V vocabulary.
"""

from typing import Any

import torch
from transformers import PreTrainedModel
from typing_extensions import override

from effopd import trl_hooks
from effopd.errors import ConfigurationError
from effopd.objectives import engine_weights, exopd_divergence, exopd_target, sampled_reverse_kl
from effopd.training.config import OPDConfig
from effopd.training.metered import MeteredTrainer


class OPDTrainer(MeteredTrainer, trl_hooks.HookedDistillationTrainer):
    """On-policy distillation (arXiv 2605.11739, Preliminaries) on TRL's `DistillationTrainer`.

    Args:
        *args: Arguments of `DistillationTrainer`; `args` is an `OPDConfig`.
        reference_model: Reference model of ExOPD, with the teacher's vocabulary; None where the method needs none.
        **kwargs: Arguments of `DistillationTrainer`, and `evaluation_reward` (see `MeteredTrainer`), without which
            `evaluate()` measures TRL's divergence.

    Attributes:
        step_rollouts: This process's examples of the step under way, and the token ids sampled for each.
    """

    args: OPDConfig

    def __init__(self, *args: Any, reference_model: PreTrainedModel | None = None, **kwargs: Any) -> None:
        self.step_rollouts: tuple[list[dict[str, Any]], list[list[int]]] = ([], [])
        super().__init__(*args, reference_model=reference_model, **kwargs)
        self._check_reference()
        self.effopd_weighs_tokens = self.args.estimator == "sampled"
        self.effopd_asks_engine = self.effopd_weighs_tokens and self.args.vllm_importance_sampling_correction
        if self.effopd_asks_engine:
            trl_hooks.check_engine_logprobs(self)

    @override
    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Train on one micro-batch, and add its loss to the meter."""
        loss: torch.Tensor = super().training_step(*args, **kwargs)
        if not self.effopd_trains_again:
            self.meter.loss += loss.item()
        return loss

    @override
    def on_rollouts(self, examples: list[dict[str, Any]], completion_ids: list[list[int]], seconds: float) -> None:
        self.step_rollouts = (examples, completion_ids)
        self.count_rollouts(completion_ids, seconds)

    @override
    def on_teacher_pass(self, seconds: float) -> None:
        self.meter.teacher_seconds += seconds

    @override
    def on_reference_pass(self, seconds: float) -> None:
        self.meter.reference_seconds += seconds

    @override
    def training_loss(self, batch: dict[str, Any]) -> trl_hooks.DivergenceLoss:
        """Return the loss of the estimator that `args` name; whichever it is, it adds the reverse KL to the meter."""
        if self.effopd_trains_again:
            return self._sampled_loss(batch) if self.args.estimator == "sampled" else trl_hooks.divergence_loss()
        self.meter.teacher_tokens += int(batch["completion_mask"].sum())
        return self._sampled_loss(batch) if self.args.estimator == "sampled" else self._full_vocab_loss(batch)

    def _full_vocab_loss(self, batch: dict[str, Any]) -> trl_hooks.DivergenceLoss:
        """Return TRL's own divergence, which is exact over the vocabulary; for ExOPD, two of them."""
        divergence = trl_hooks.divergence_loss()
        reference = self._read_reference(batch)

        def loss(*args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
            *tensors, beta = args
            result = divergence(*tensors, beta, **kwargs)
            reverse_kl = result[0].detach()
            if beta != 1.0:
                with torch.no_grad():
                    reverse_kl = divergence(*tensors, 1.0, **kwargs)[0]
            self.meter.reverse_kl += reverse_kl.item()
            if reference is None:
                return result
            student_BTH, _, student_head_VH, _, mask_BT = tensors
            tensors = [student_BTH, reference.states, student_head_VH, reference.head, mask_BT]
            to_reference = divergence(*tensors, beta, **kwargs | reference.settings)[0]
            return exopd_divergence(result[0], to_reference, self.args.exopd_lambda or 1.0), *result[1:]

        return loss

    def _sampled_loss(self, batch: dict[str, Any]) -> trl_hooks.DivergenceLoss:
        """Return the paper's policy gradient on the sampled log-ratio of the completions' tokens.

        When the weights have moved since they sampled, it corrects for that by the importance ratio of each token. And
        if vLLM sampled, each token is weighed by the ratio of the trainer's probability to vLLM's, truncated. For
        ExOPD, another target takes the teacher's place; the reverse KL in the meter is still that to the teacher.
        """
        reference = self._read_reference(batch)

        def loss(
            student_BTH: torch.Tensor,
            teacher_BTH: torch.Tensor,
            student_head_VH: torch.Tensor,
            teacher_head_VH: torch.Tensor,
            mask_BT: torch.Tensor,
            beta: float,
            *,
            num_items_in_batch: torch.Tensor | float,
            **settings: Any,
        ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
            hidden_and_heads = student_BTH, teacher_BTH, student_head_VH, teacher_head_VH
            tokens_BT = batch["completion_ids"]
            student_BT, teacher_BT, entropy_BT = trl_hooks.token_logprobs(tokens_BT, *hidden_and_heads, **settings)
            sampling_BT = batch.setdefault(trl_hooks.SAMPLING_LOGPROBS, student_BT.detach())
            weights_BT = self._engine_weights(sampling_BT, batch.get(trl_hooks.ENGINE_LOGPROBS), mask_BT)
            of_sampled = mask_BT, sampling_BT, weights_BT
            surrogate, reverse_kl = sampled_reverse_kl(student_BT, teacher_BT, *of_sampled)
            if reference is not None:
                states_BTH, head_VH, own = reference
                reference_BT = trl_hooks.frozen_logprobs(tokens_BT, states_BTH, head_VH, **settings | own)
                target_BT = exopd_target(teacher_BT, reference_BT, self.args.exopd_lambda or 1.0)
                surrogate, _ = sampled_reverse_kl(student_BT, target_BT, *of_sampled)
            if not self.effopd_trains_again:
                self.meter.reverse_kl += (reverse_kl / num_items_in_batch).item()
            return surrogate / num_items_in_batch, (entropy_BT.detach() * mask_BT).sum(), mask_BT.sum()

        return loss

    def _check_reference(self) -> None:
        """Refuse to train without the reference model that the method needs, with one that it does not, or sharded."""
        if self.args.reads_reference != (self.reference_model is not None):
            given = "none" if self.reference_model is None else "one"
            raise ConfigurationError(
                f"method={self.args.method!r} with exopd_lambda={self.args.exopd_lambda} got {given} as "
                "reference_model; it is needed for exopd with a lambda other than 1, and has no effect otherwise."
            )
        if self.reference_model is not None and self.is_deepspeed_enabled:
            raise ConfigurationError(
                "method='exopd' was not made for DeepSpeed, which would have to shard the reference model. Use DDP or "
                "FSDP2."
            )

    def _read_reference(self, batch: dict[str, Any]) -> trl_hooks.ReferenceOutput | None:
        if self.reference_model is None:
            return None
        self.meter.reference_tokens += int(batch["completion_mask"].sum())
        return self.read_reference(batch)

    def _engine_weights(
        self, sampling_BT: torch.Tensor, engine_BT: torch.Tensor | None, mask_BT: torch.Tensor
    ) -> torch.Tensor | None:
        """Weigh tokens that vLLM sampled, and log mean weight and difference by the names that they have in GRPO."""
        if engine_BT is None:
            return None
        weights_BT = engine_weights(sampling_BT, engine_BT, self.args.vllm_importance_sampling_clip_max)
        differences = (sampling_BT - engine_BT).abs()[mask_BT.bool()]
        for name, values in (
            ("sampling/importance_sampling_ratio/mean", weights_BT[mask_BT.bool()]),
            ("sampling/sampling_logp_difference/mean", differences[~differences.isnan()]),
        ):
            if len(values):
                trl_hooks.log_metric(self, name, values.mean().item())
        return weights_BT
