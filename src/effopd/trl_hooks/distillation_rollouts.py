"""The rollouts of a step of `DistillationTrainer`, which are scored by the exact KL to the teacher.

Shape suffixes: B sequences, T completion tokens, H hidden size, V vocabulary.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from typing_extensions import override

from effopd.trl_hooks.divergence import (
    DivergenceLoss,
    divergence_per_row,
    no_loss,
    replaced_loss,
    token_logprobs,
    unlogged,
)
from effopd.trl_hooks.step_rollouts import StepRollouts, StepScore

SAMPLING_LOGPROBS = "sampling_logprobs"
"""Key of a micro-batch: log-probabilities of its tokens under the weights that sampled it, float32 [B, T]."""


class DistillationRollouts(StepRollouts):
    """Rollouts of a `DistillationTrainer`, which the teacher reads once for everything that is done with them.

    A score is minus the reverse KL from student to teacher, in nats, summed over a completion. The KL to the weights
    that sampled is that from the live weights to them. Both are exact over the vocabulary. With more than one pass, the
    teacher's hidden states on all rollouts are kept until the step ends; with one, only those that are scored.
    """

    def __init__(self, trainer: Any, on_sampled: Callable[[], None], num_scored: int, passes: int) -> None:
        self._teacher_states: dict[int, torch.Tensor] = {}
        self._sampler_states: dict[int, torch.Tensor] = {}  # of the weights that sampled, on the rows that are scored
        self._sampler_head: tuple[torch.Tensor, torch.Tensor | None] | None = None  # their head, and its bias
        super().__init__(trainer, on_sampled, num_scored, passes)
        self._hidden_states = trainer._get_last_hidden_state
        trainer._get_last_hidden_state = self._hidden_states_once

    @override
    def score(self) -> StepScore:
        first = self._sampler_head is None
        values: list[torch.Tensor] = []
        moved = torch.zeros(2, dtype=torch.float64, device=self.trainer.accelerator.device)  # nats, tokens

        def loss(
            student_BTH: torch.Tensor,
            teacher_BTH: torch.Tensor,
            student_head_VH: torch.Tensor,
            teacher_head_VH: torch.Tensor,
            mask_BT: torch.Tensor,
            beta: float,
            num_items_in_batch: Any,
            **settings: Any,
        ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
            tensors = student_BTH, teacher_BTH, student_head_VH, teacher_head_VH, mask_BT
            values.append(-divergence_per_row(*tensors, **settings))
            if first:
                self._keep_sampler(student_BTH, student_head_VH, settings["student_lm_head_bias"])
            else:
                moved[0] += self._kl_to_sampler(student_BTH, student_head_VH, mask_BT, settings)
            moved[1] += mask_BT.sum()
            return no_loss(mask_BT)

        self._compute(loss, self._scored())
        return self._score_of(values, *moved)

    def _keep_sampler(self, states_BTH: torch.Tensor, head_VH: torch.Tensor, bias_V: torch.Tensor | None) -> None:
        assert self._index is not None
        self._sampler_states[self._index] = states_BTH
        if self._sampler_head is None:  # a copy, because a candidate is written over it
            self._sampler_head = head_VH.detach().clone(), None if bias_V is None else bias_V.detach().clone()

    def _kl_to_sampler(
        self, states_BTH: torch.Tensor, head_VH: torch.Tensor, mask_BT: torch.Tensor, settings: dict[str, Any]
    ) -> torch.Tensor:
        """Compute the KL from the live weights to those that sampled, in nats, summed over the tokens."""
        assert self._index is not None and self._sampler_head is not None
        sampler_head_VH, sampler_bias_V = self._sampler_head
        same = {f"teacher_{name[8:]}": value for name, value in settings.items() if name.startswith("student_")}
        settings = settings | same | {"teacher_lm_head_bias": sampler_bias_V}
        tensors = states_BTH, self._sampler_states[self._index], head_VH, sampler_head_VH, mask_BT
        return divergence_per_row(*tensors, **settings).sum()

    @override
    def note_sampling_logprobs(self) -> None:
        """Put them into the micro-batches if the estimator takes expectations over the sampled tokens."""
        if not getattr(self.trainer, "effopd_weighs_tokens", False):
            return
        batches = self.trainer._buffered_inputs

        def loss(*args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
            *hidden_and_heads, mask_BT, _ = args
            batch = batches[self._index]
            kwargs.pop("num_items_in_batch")
            batch[SAMPLING_LOGPROBS] = token_logprobs(batch["completion_ids"], *hidden_and_heads, **kwargs)[0]
            return no_loss(mask_BT)

        self._compute(loss, ((index, None) for index in range(len(batches))))

    @override
    def forget(self) -> None:
        super().forget()
        self._teacher_states.clear()
        self._sampler_states.clear()
        self._sampler_head = None

    def _hidden_states_once(self, model: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Stand in for the trainer's method, which runs student or teacher; for the teacher, take what was kept."""
        is_teacher = model is self.trainer.accelerator.unwrap_model(self.trainer.teacher_model)
        if not is_teacher or self._index is None:
            return self._hidden_states(model, *args, **kwargs)  # type: ignore[no-any-return]
        if (kept := self._teacher_states.get(self._index)) is not None:
            return kept[: self._num_rows]
        states: torch.Tensor = self._hidden_states(model, *args, **kwargs)
        if self.repeats:
            self._teacher_states[self._index] = states
        return states

    def _read_by_teacher(self, index: int) -> None:
        """Let the teacher read a whole micro-batch as it does when training on it, unless it has."""
        if index in self._teacher_states:
            return
        trainer, batch = self.trainer, self.trainer._buffered_inputs[index]
        trainer.teacher_model.eval()
        teacher = trainer.accelerator.unwrap_model(trainer.teacher_model)
        ids, mask = (torch.cat([batch[f"prompt_{name}"], batch[f"completion_{name}"]], 1) for name in ("ids", "mask"))
        arguments = teacher, ids, mask, batch["completion_ids"].size(1)
        self._teacher_states[index] = trainer._forward_redirection(
            trainer.teacher_model, teacher, self._hidden_states, *arguments
        )

    def _compute(self, loss: DivergenceLoss, rows: Iterable[tuple[int, int | None]]) -> None:
        """Call `loss` on micro-batches without gradients: `rows` has the index of each and how many of its rows."""
        trainer = self.trainer
        with unlogged(trainer), torch.no_grad(), trainer.compute_loss_context_manager(), replaced_loss(loss):
            for index, num_rows in rows:
                self._read_by_teacher(index)
                with self._micro_batch(index, num_rows) as batch:
                    trainer.compute_loss(trainer.model_wrapped, batch)
