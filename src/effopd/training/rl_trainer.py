"""`RLTrainer`: TRL's GRPOTrainer as GRPO, DAPO or PPO, with accuracy as evaluation, and its cost metered."""

from collections.abc import Sequence
from typing import Any

import torch
from trl.rewards import get_soft_overlong_punishment
from typing_extensions import override

from effopd import trl_hooks
from effopd.errors import ConfigurationError
from effopd.extrapolation.validation import RewardFunction
from effopd.training.critic import Critic, CriticTraining
from effopd.training.metered import MeteredTrainer
from effopd.training.rl_config import RLConfig


class RLTrainer(MeteredTrainer, trl_hooks.HookedGRPOTrainer):
    """Reinforcement learning with verifiable rewards, on TRL's `GRPOTrainer`.

    Args:
        *args: Arguments of `GRPOTrainer`; `args` is an `RLConfig`.
        reward_funcs: Reward functions to learn from; DAPO's punishment of long completions is added to them.
        critic: Critic of PPO; None for the other methods.
        **kwargs: Arguments of `GRPOTrainer`, and `evaluation_reward` (see `MeteredTrainer`).

    Attributes:
        critic: The critic's training, a callback that has to be added to the trainer for it to be saved, or None.

    Raises:
        ConfigurationError: The method needs a critic and there is none, or the other way round; or the groups of a
            process are not whole, which dynamic sampling needs.
    """

    args: RLConfig

    def __init__(
        self, *args: Any, reward_funcs: Sequence[RewardFunction], critic: Critic | None = None, **kwargs: Any
    ) -> None:
        config: RLConfig = kwargs["args"]
        if (config.method == "ppo") != (critic is not None):
            raise ConfigurationError(f"method={config.method!r} got critic={critic}; ppo needs one, the others none.")
        self.effopd_sampling_rounds = config.dynamic_sampling_rounds or 0
        on_a_process = config.per_device_train_batch_size * config.steps_per_generation
        if self.effopd_sampling_rounds and on_a_process % config.num_generations:
            raise ConfigurationError(
                f"Dynamic sampling needs all {config.num_generations} samples of a prompt (num_generations) on one "
                f"process, and each samples {on_a_process} completions at a time (per_device_train_batch_size x "
                "gradient_accumulation_steps, or generation_batch_size over the processes). Make that a multiple, or "
                "set dynamic_sampling_rounds to 0."
            )
        functions = list(reward_funcs)
        if config.overlong_buffer:
            functions.append(get_soft_overlong_punishment(config.max_completion_length, config.overlong_buffer))
            self.effopd_num_shaping = 1
        super().__init__(*args, reward_funcs=functions, **kwargs)
        self.critic = CriticTraining(critic, self) if critic is not None else None

    @override
    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Train on one micro-batch, and add its loss to the meter."""
        loss: torch.Tensor = super().training_step(*args, **kwargs)
        self.meter.loss += loss.item()
        return loss

    @override
    def on_rollouts(self, completion_ids: list[list[int]], seconds: float) -> None:
        self.count_rollouts(completion_ids, seconds)

    @override
    def on_reference_pass(self, num_tokens: int, seconds: float) -> None:
        self.meter.reference_tokens += num_tokens
        self.meter.reference_seconds += seconds

    @override
    def token_advantages(self, batch: dict[str, Any], rewards_B: torch.Tensor) -> torch.Tensor | None:
        return self.critic.advantages(batch, rewards_B) if self.critic is not None else None

    @override
    def after_micro_batch(self, batch: dict[str, Any]) -> None:
        if self.critic is not None:
            self.critic.train_on(batch)
