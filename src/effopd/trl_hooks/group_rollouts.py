"""The rollouts of a step of `GRPOTrainer`, which are scored by the surrogate of their expected advantage.

Shape suffixes: B sequences, T completion tokens.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from typing_extensions import override

from effopd.trl_hooks.divergence import unlogged
from effopd.trl_hooks.step_rollouts import StepRollouts, StepScore

OLD_LOGPROBS = "old_per_token_logps"
"""TRL's key of a micro-batch: log-probabilities of its tokens under the weights that sampled it, float32 [B, T]."""


class GroupRollouts(StepRollouts):
    """Rollouts of a `GRPOTrainer`, whose rewards are known.

    The score of a rollout is what its advantage A says about moving away from the weights that sampled it: the sum over
    its tokens of (ratio - 1) A, without clipping, less the trainer's own penalty for leaving its reference model. To
    first order it is the gain in expected advantage. The KL is that from the weights that sampled to the live ones,
    estimated on the sampled tokens by ratio - 1 - log ratio: it grows without bound where a candidate does not write
    any more what was sampled.
    """

    def __init__(self, trainer: Any, on_sampled: Callable[[], None], num_scored: int, passes: int) -> None:
        self._sampler: dict[int, torch.Tensor] = {}  # their log-probabilities, by micro-batch, on the scored rows
        self._computed: torch.Tensor | None = None
        super().__init__(trainer, on_sampled, num_scored, passes)
        self._logprobs = trainer._get_per_token_logps_and_entropies
        trainer._get_per_token_logps_and_entropies = self._noted_logprobs

    @override
    def score(self) -> StepScore:
        first = not self._sampler
        values = []
        moved = torch.zeros(2, dtype=torch.float64, device=self.trainer.accelerator.device)  # nats, tokens
        for index, num_rows in self._scored():
            live_BT, batch = self._compute(index, num_rows)
            if first:
                self._sampler[index] = live_BT
            mask_BT = batch["completion_mask"] * batch.get("tool_mask", 1)
            log_ratio_BT = (live_BT - self._sampler[index]).double() * mask_BT
            change_BT = torch.expm1(log_ratio_BT)
            gain_BT = change_BT * batch["advantages"].view(len(mask_BT), -1)
            if self.trainer.beta:
                log_reference_BT = (batch["ref_per_token_logps"] - live_BT).double()
                gain_BT = gain_BT - self.trainer.beta * (torch.expm1(log_reference_BT) - log_reference_BT)
            values.append((gain_BT * mask_BT).sum(1))
            moved += torch.stack([(change_BT - log_ratio_BT).sum(), mask_BT.sum()])
        return self._score_of(values, *moved)

    @override
    def note_sampling_logprobs(self) -> None:
        for index, batch in enumerate(self.trainer._buffered_inputs):
            if OLD_LOGPROBS not in batch:
                batch[OLD_LOGPROBS] = self._compute(index, None)[0]

    @override
    def forget(self) -> None:
        super().forget()
        self._sampler.clear()

    def _compute(self, index: int, num_rows: int | None) -> tuple[torch.Tensor, dict[str, Any]]:
        """Compute the log-probabilities of rows of a micro-batch, float32 [B, T], as the trainer does for its loss."""
        trainer = self.trainer
        with (
            unlogged(trainer),
            torch.no_grad(),
            trainer.compute_loss_context_manager(),
            self._micro_batch(index, num_rows) as batch,
        ):
            trainer.compute_loss(trainer.model_wrapped, batch)
        assert self._computed is not None
        computed, self._computed = self._computed, None
        return computed, batch

    def _noted_logprobs(self, *args: Any, **kwargs: Any) -> Iterable[torch.Tensor | None]:
        """Stand in for the trainer's method, and note what it computes for a micro-batch of the step."""
        found: tuple[torch.Tensor, ...] = self._logprobs(*args, **kwargs)
        if self._index is not None:
            self._computed = found[0].detach()
            batch = self.trainer._buffered_inputs[self._index]
            if self.repeats and torch.is_grad_enabled() and OLD_LOGPROBS not in batch:
                batch[OLD_LOGPROBS] = self._computed  # of the first pass, for the ratios of the next
        return found
