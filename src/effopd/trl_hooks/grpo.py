"""`HookedGRPOTrainer`: TRL's trainer with public methods where it has only private ones to override."""

import time
from typing import Any

import torch
from trl import GRPOTrainer
from typing_extensions import override

from effopd.trl_hooks.dynamic_sampling import replace_equal_groups
from effopd.trl_hooks.trainer import seconds_since


class HookedGRPOTrainer(GRPOTrainer):
    """TRL's `GRPOTrainer`, which tells a subclass what it does while it trains.

    A subclass overrides `on_rollouts`, `on_reference_pass`, `token_advantages` and `after_micro_batch`. They are called
    only in training mode, and so neither for evaluation nor for validation.

    Attributes:
        effopd_sampling_rounds: How often prompts whose samples are all rewarded alike are replaced, at most.
        effopd_num_shaping: Number of reward functions, the last ones, that do not count for that.
    """

    effopd_sampling_rounds = 0
    effopd_num_shaping = 0

    def on_rollouts(self, completion_ids: list[list[int]], seconds: float) -> None:
        """This is called when completions were sampled to train on; by default it does nothing.

        Args:
            completion_ids: Token ids of this process's completions, unpadded; of those thrown away later, too.
            seconds: Wall time of sampling, in seconds.
        """

    def on_reference_pass(self, num_tokens: int, seconds: float) -> None:
        """This is called when the reference model has read completions of so many tokens; by default it does nothing.

        Args:
            num_tokens: Number of tokens in this process's completions.
            seconds: Wall time of its forward pass, in seconds.
        """

    def token_advantages(self, batch: dict[str, Any], rewards_B: torch.Tensor) -> torch.Tensor | None:
        """Return advantages to train with in place of GRPO's, [B, T]; by default None, for GRPO's.

        Args:
            batch: This process's rollouts; `prompt_ids`, `prompt_mask`, `completion_ids` and `completion_mask` are
                int64. Tensors that are put into it, with B rows, come with the micro-batches.
            rewards_B: Their weighted rewards, [B]; NaN where no function gave any.
        """
        return None

    def after_micro_batch(self, batch: dict[str, Any]) -> None:
        """This is called when the gradient of a micro-batch was computed; by default it does nothing."""

    @override
    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        loss: torch.Tensor = super().training_step(*args, **kwargs)
        self.after_micro_batch(self._effopd_batch)
        return loss

    @override
    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        self._effopd_batch = inputs
        loss: torch.Tensor = super()._compute_loss(model, inputs)
        return loss

    @override
    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        self._effopd_examples = inputs
        output: dict[str, Any] = super()._generate_and_score_completions(inputs)
        if not self.model.training:
            return output
        rewards_BF, start = self._effopd_rewards, self.accelerator.process_index * len(inputs)
        rewards_B = (rewards_BF * self.reward_weights.to(rewards_BF.device)).nansum(1)
        rewards_B[rewards_BF.isnan().all(1)] = torch.nan
        advantages_BT = self.token_advantages(output, rewards_B[start : start + len(inputs)])
        return output if advantages_BT is None else output | {"advantages": advantages_BT}

    @override
    def _generate(self, prompts: list[Any]) -> tuple[Any, ...]:
        output = self._effopd_sample(prompts)
        self._effopd_filled = None
        if self.model.training and self.effopd_sampling_rounds:
            self._effopd_filled = replace_equal_groups(
                self, self._effopd_examples, prompts, output, self.effopd_sampling_rounds, self.effopd_num_shaping
            )
        return output

    @override
    def _calculate_rewards(self, *args: Any) -> torch.Tensor:
        filled, self._effopd_filled = self._effopd_filled, None  # rewards of each rollout, computed only once
        self._effopd_rewards: torch.Tensor = super()._calculate_rewards(*args) if filled is None else filled
        return self._effopd_rewards

    @override
    def _get_per_token_logps_and_entropies(
        self, model: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor, logits_to_keep: int, **kwargs: Any
    ) -> tuple[Any, ...]:
        started = time.perf_counter()
        output: tuple[Any, ...] = super()._get_per_token_logps_and_entropies(
            model, input_ids, attention_mask, logits_to_keep, **kwargs
        )
        if self.model.training and model is self.ref_model:
            num_tokens = int(attention_mask[:, -logits_to_keep:].sum())
            self.on_reference_pass(num_tokens, seconds_since(started, self))
        return output

    def _effopd_sample(self, prompts: list[Any]) -> tuple[Any, ...]:
        """Sample as TRL does, and tell what it took."""
        started = time.perf_counter()
        output: tuple[Any, ...] = super()._generate(prompts)
        if self.model.training:
            self.on_rollouts(output[1], seconds_since(started, self))
        return output
