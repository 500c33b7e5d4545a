"""The rollouts of a step of `DistillationTrainer`: scored before the step trains on them, and trained on repeatedly.

Shape suffixes: B sequences, T completion tokens, H hidden size, V vocabulary.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from accelerate.utils import DistributedType, gather, reduce

from effopd.errors import UnsupportedError
from effopd.trl_hooks.divergence import (
    DivergenceLoss,
    LossOfBatch,
    copied_head,
    divergence_per_row,
    metrics_kept,
    no_loss,
    replaced_loss,
    token_logprobs,
    unlogged,
)
from effopd.trl_hooks.resume import weakly
from effopd.trl_hooks.trainer import seconds_since

SAMPLING_LOGPROBS = "sampling_logprobs"
"""Key of a micro-batch: log-probabilities of its tokens under the weights that sampled it, float32 [B, T]."""


class StepScore(NamedTuple):
    """How the live weights do on some rollouts of the step, over all processes.

    Attributes:
        divergences: Reverse KL from student to teacher, in nats, summed over each completion; float64 [completions].
        kl_to_sampler: KL from the live weights to those that sampled the rollouts, in nats, the mean over tokens.
    """

    divergences: torch.Tensor
    kl_to_sampler: float


class StepRollouts:
    """Watches a trainer's rollouts, which the teacher reads once for everything that is done with them.

    It replaces two methods of the trainer until `unwatch_rollouts` or another of its kind, and must be made before the
    first rollouts are sampled.

    Args:
        trainer: A `DistillationTrainer`.
        on_sampled: Function that is called after each step's rollouts were sampled, before the step trains on them. If
            it is a bound method, this does not keep its object alive.
        num_scored: Number of rollouts to score, over all processes; all of them if there are fewer.
        passes: Number of passes over each step's rollouts. With more than one, or if the loss needs to know how the
            tokens were sampled, the teacher's hidden states on all of them are kept until the step ends; otherwise
            only those on the micro-batches that are scored.
    """

    def __init__(self, trainer: Any, on_sampled: Callable[[], None], num_scored: int, passes: int) -> None:
        self.trainer = trainer
        self.num_scored = -(-num_scored // trainer.accelerator.num_processes)
        self._keep_all = passes > 1
        self._teacher_states: dict[int, torch.Tensor] = {}
        self._sampler_states: dict[int, torch.Tensor] = {}  # of the weights that sampled, on the rows that are scored
        self._sampler_head: tuple[torch.Tensor, torch.Tensor | None] | None = None  # their head, and its bias
        self._index: int | None = None  # of the micro-batch under way
        self._num_rows: int | None = None  # how many of its rows, None for all
        self._rates: list[float] = []  # of the step under way, by group of parameters
        self._watch(weakly(on_sampled))

    def read_by_teacher(self) -> None:
        """Let the teacher read the micro-batches that training or scoring ask for, as it does to train on them.

        A trainer that has `on_teacher_pass` is told how long it took. This is collective.
        """
        everything = self._keep_all or getattr(self.trainer, "effopd_weighs_tokens", False)
        indices = range(len(self.trainer._buffered_inputs)) if everything else [index for index, _ in self._scored()]
        started = time.perf_counter()
        with unlogged(self.trainer), self.trainer.compute_loss_context_manager():
            for index in indices:
                self._read_by_teacher(index)
        if (tell := getattr(self.trainer, "on_teacher_pass", None)) is not None:
            tell(seconds_since(started, self.trainer))

    def score(self) -> StepScore:
        """Score the live weights. This is collective.

        The first call after the rollouts were sampled must be for the weights that sampled them.
        """
        first = self._sampler_head is None
        divergences: list[torch.Tensor] = []
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
        ) -> LossOfBatch:
            tensors = student_BTH, teacher_BTH, student_head_VH, teacher_head_VH, mask_BT
            divergences.append(divergence_per_row(*tensors, **settings))
            if first:
                self._keep_sampler(student_BTH, student_head_VH, settings["student_lm_head_bias"])
            else:
                moved[0] += self._kl_to_sampler(student_BTH, student_head_VH, mask_BT, settings)
            moved[1] += mask_BT.sum()
            return no_loss(mask_BT)

        self._compute(loss, self._scored())
        nats, tokens = reduce(moved, "sum").tolist()
        return StepScore(gather(torch.cat(divergences)).cpu(), nats / tokens)

    def _keep_sampler(self, states_BTH: torch.Tensor, head_VH: torch.Tensor, bias_V: torch.Tensor | None) -> None:
        assert self._index is not None
        self._sampler_states[self._index] = states_BTH
        if self._sampler_head is None:  # a copy, because a candidate is written over it
            self._sampler_head = copied_head(head_VH, bias_V)

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

    def note_sampling_logprobs(self) -> None:
        """Put the log-probabilities of all sampled tokens under the live weights into the micro-batches."""
        batches = self.trainer._buffered_inputs

        def loss(*args: Any, **kwargs: Any) -> LossOfBatch:
            *hidden_and_heads, mask_BT, _ = args
            batch = batches[self._index]
            kwargs.pop("num_items_in_batch")
            batch[SAMPLING_LOGPROBS] = token_logprobs(batch["completion_ids"], *hidden_and_heads, **kwargs)[0]
            return no_loss(mask_BT)

        self._compute(loss, ((index, None) for index in range(len(batches))))

    def train_again(self) -> None:
        """Do one more optimizer step on the step's rollouts, at its learning rate. Call it at the end of the step.

        It does what the trainer did for its own, except that neither its log nor its count of steps notices.
        """
        trainer, model = self.trainer, self.trainer.model_wrapped
        accelerator, batches = trainer.accelerator, trainer._buffered_inputs
        prepare, step = trainer._prepare_inputs, trainer._step
        trainer._prepare_inputs = self._trained_on
        trainer.effopd_trains_again = True
        deepspeed = accelerator.distributed_type == DistributedType.DEEPSPEED  # its backward pass steps the optimizer
        if deepspeed:
            schedule, model.lr_scheduler = model.lr_scheduler, None
        scheduled = self._set_rates(self._rates)  # of the next step
        try:
            with metrics_kept(trainer, "train"):
                for index, batch in enumerate(batches):
                    is_last = index == len(batches) - 1
                    accelerator.gradient_state._set_sync_gradients(is_last)
                    with nullcontext() if is_last or deepspeed else accelerator.no_sync(model):
                        trainer.training_step(model, batch, None)
            if trainer.args.max_grad_norm > 0:
                trainer._clip_grad_norm(model)
            trainer.optimizer.step()
            model.zero_grad()
        finally:
            self._set_rates(scheduled)
            trainer._prepare_inputs, trainer._step, trainer.effopd_trains_again = prepare, step, False
            if deepspeed:
                model.lr_scheduler = schedule

    def _set_rates(self, rates: list[float]) -> list[float]:
        """Set the optimizer's learning rates, and return those that it had."""
        groups = self.trainer.optimizer.param_groups
        before = [group["lr"] for group in groups]
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate
        return before

    def forget(self) -> None:
        """Free what was kept of the step. Call it when the step is over."""
        self._teacher_states.clear()
        self._forget_sampler()
        self._index = None

    def _forget_sampler(self) -> None:
        self._sampler_states.clear()
        self._sampler_head = None

    def _watch(self, find_action: Callable[[], Callable[[], None] | None]) -> None:
        trainer = self.trainer
        unwatch_rollouts(trainer)
        prepare, hidden_states = trainer._prepare_inputs, trainer._get_last_hidden_state
        trainer.effopd_unwatched = prepare, hidden_states

        def prepare_inputs(batch: Any) -> Any:
            before = trainer._buffered_inputs
            inputs = prepare(batch)
            if not trainer.model.training:
                self._index = None  # after an interruption, it may still be that of a step
                return inputs
            if trainer._buffered_inputs is not before:
                self.forget()
                if (action := find_action()) is not None:
                    action()
                self._forget_sampler()
            if trainer.optimizer is not None:
                self._rates = [group["lr"] for group in trainer.optimizer.param_groups]
            return self._trained_on(inputs)

        def hidden_states_once(model: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
            is_teacher = model is trainer.accelerator.unwrap_model(trainer.teacher_model)
            if not is_teacher or self._index is None:
                return hidden_states(model, *args, **kwargs)  # type: ignore[no-any-return]
            if (kept := self._teacher_states.get(self._index)) is not None:
                return kept[: self._num_rows]
            states: torch.Tensor = hidden_states(model, *args, **kwargs)
            if self._keep_all:
                self._teacher_states[self._index] = states
            return states

        trainer._prepare_inputs, trainer._get_last_hidden_state = prepare_inputs, hidden_states_once
        self._hidden_states = hidden_states

    def _trained_on(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Note which micro-batch is trained on next."""
        batches = self.trainer._buffered_inputs
        self._index = next(index for index, batch in enumerate(batches) if batch is inputs)
        self._num_rows = None
        return inputs

    def _scored(self) -> Iterator[tuple[int, int]]:
        """Yield the micro-batches to score and how many of their rows, from the first on."""
        left = self.num_scored
        for index, batch in enumerate(self.trainer._buffered_inputs):
            if left > 0:
                num_rows = min(left, len(batch["completion_ids"]))
                left -= num_rows
                yield index, num_rows

    def _read_by_teacher(self, index: int) -> None:
        """Let the teacher read a whole micro-batch as it does when training on it, unless it has."""
        if index in self._teacher_states:
            return
        trainer, batch = self.trainer, self.trainer._buffered_inputs[index]
        if "pixel_values" in batch:
            raise UnsupportedError(
                "The training prompts have images, which a line search does not score. Train without acceleration."
            )
        trainer.teacher_model.eval()
        teacher = trainer.accelerator.unwrap_model(trainer.teacher_model)
        ids, mask = (torch.cat([batch[f"prompt_{name}"], batch[f"completion_{name}"]], 1) for name in ("ids", "mask"))
        arguments = teacher, ids, mask, batch["completion_ids"].size(1)
        self._teacher_states[index] = trainer._forward_redirection(
            trainer.teacher_model, teacher, self._hidden_states, *arguments
        )

    @contextmanager
    def _micro_batch(self, index: int, num_rows: int | None) -> Iterator[dict[str, Any]]:
        """Give the first rows of a micro-batch, for which the teacher's hidden states are taken from what was kept."""
        self._index, self._num_rows = index, num_rows
        batch = self.trainer._buffered_inputs[index]
        try:
            yield {
                key: value[:num_rows] if isinstance(value, torch.Tensor) and value.ndim else value
                for key, value in batch.items()
            }
        finally:
            self._index = self._num_rows = None

    def _compute(self, loss: DivergenceLoss, rows: Iterable[tuple[int, int | None]]) -> None:
        """Call `loss` on micro-batches without gradients: `rows` has the index of each and how many of its rows."""
        trainer = self.trainer
        with unlogged(trainer), trainer.compute_loss_context_manager(), replaced_loss(loss):
            for index, num_rows in rows:
                self._read_by_teacher(index)
                with self._micro_batch(index, num_rows) as batch:
                    trainer.compute_loss(trainer.model_wrapped, batch)


def unwatch_rollouts(trainer: Any) -> None:
    """Give a trainer back the methods that `StepRollouts` has replaced, if it has."""
    if (methods := trainer.__dict__.pop("effopd_unwatched", None)) is not None:
        trainer._prepare_inputs, trainer._get_last_hidden_state = methods
