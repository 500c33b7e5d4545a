"""The rollouts of a step: scored before the step trains on them, and trained on repeatedly.

Shape suffixes: B sequences, T completion tokens.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from accelerate.utils import gather, reduce

from effopd.trl_hooks.divergence import metrics_kept
from effopd.trl_hooks.resume import weakly


class StepScore(NamedTuple):
    """How the live weights do on some rollouts of the step, over all processes.

    Attributes:
        values: Score of each rollout, higher is better; float64 [rollouts].
        kl_to_sampler: KL between the live weights and those that sampled the rollouts, in nats, the mean over tokens.
    """

    values: torch.Tensor
    kl_to_sampler: float


class StepRollouts(ABC):
    """Watches a trainer's rollouts. It replaces methods of the trainer, and must be made before training starts.

    Args:
        trainer: A trainer of TRL.
        on_sampled: Function that is called after each step's rollouts were sampled, before the step trains on them. If
            it is a bound method, this does not keep its object alive.
        num_scored: Number of rollouts to score, over all processes; all of them if there are fewer.
        passes: Number of passes over each step's rollouts.
    """

    def __init__(self, trainer: Any, on_sampled: Callable[[], None], num_scored: int, passes: int) -> None:
        self.trainer = trainer
        self.num_scored = -(-num_scored // trainer.accelerator.num_processes)
        self.repeats = passes > 1
        self._index: int | None = None  # of the micro-batch under way
        self._num_rows: int | None = None  # how many of its rows, None for all
        self._watch(weakly(on_sampled))

    @abstractmethod
    def score(self) -> StepScore:
        """Score the live weights. This is collective.

        The first call after the rollouts were sampled must be for the weights that sampled them.
        """

    @abstractmethod
    def note_sampling_logprobs(self) -> None:
        """Put the log-probabilities of all sampled tokens under the live weights into the micro-batches, if needed.

        Call it for the weights that sampled, before others are trained on the rollouts. This is collective.
        """

    def train_again(self) -> None:
        """Do one more optimizer step on the step's rollouts, at its learning rate. Call it at the end of the step.

        It does what the trainer did for its own, except that neither its log nor its count of steps notices.
        """
        trainer, model = self.trainer, self.trainer.model_wrapped
        accelerator, batches = trainer.accelerator, trainer._buffered_inputs
        prepare, step = trainer._prepare_inputs, trainer._step
        trainer._prepare_inputs = self._trained_on
        trainer.effopd_trains_again = True
        try:
            with metrics_kept(trainer, "train"):
                for index, batch in enumerate(batches):
                    is_last = index == len(batches) - 1
                    accelerator.gradient_state._set_sync_gradients(is_last)
                    with nullcontext() if is_last else accelerator.no_sync(model):
                        trainer.training_step(model, batch, None)
            if trainer.args.max_grad_norm > 0:
                trainer._clip_grad_norm(model)
            trainer.optimizer.step()
            model.zero_grad()
        finally:
            trainer._prepare_inputs, trainer._step, trainer.effopd_trains_again = prepare, step, False

    def forget(self) -> None:
        """Free what was kept of the step. Call it when the step is over."""
        self._index = None

    def _watch(self, find_action: Callable[[], Callable[[], None] | None]) -> None:
        trainer = self.trainer
        prepare = trainer._prepare_inputs

        def prepare_inputs(batch: Any) -> Any:
            before = trainer._buffered_inputs
            inputs = prepare(batch)
            if not trainer.model.training:
                return inputs
            if trainer._buffered_inputs is not before:
                self.forget()
                if (action := find_action()) is not None:
                    action()
            return self._trained_on(inputs)

        trainer._prepare_inputs = prepare_inputs

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

    @contextmanager
    def _micro_batch(self, index: int, num_rows: int | None) -> Iterator[dict[str, Any]]:
        """Give the first rows of a micro-batch, or all of them."""
        self._index, self._num_rows = index, num_rows
        batch = self.trainer._buffered_inputs[index]
        try:
            yield {
                key: value[:num_rows] if isinstance(value, torch.Tensor) and value.ndim else value
                for key, value in batch.items()
            }
        finally:
            self._index = self._num_rows = None

    def _score_of(self, values: Iterable[torch.Tensor], nats: torch.Tensor, tokens: torch.Tensor) -> StepScore:
        """Put together the scores of this process's micro-batches, and their sums of KL and of tokens."""
        moved, counted = reduce(torch.stack([nats.double(), tokens.double()]), "sum").tolist()
        return StepScore(gather(torch.cat(list(values))).cpu(), moved / counted)
