"""Sparser rewards for RL on the embedded worlds: a right answer is rewarded only now and then, at random.

The random numbers are torch's own, so that a run that goes on from a checkpoint goes on to the same rewards.
"""

from collections.abc import Sequence
from typing import Any

import torch

from effopd.world.reward import world_reward


def one_in_4(completions: Sequence[Any], answer: Sequence[str], prompts: Sequence[Any], **kwargs: Any) -> list[float]:
    """Reward each right answer with 1 with a probability of 1/4, else 0; a reward function for TRL."""
    return _thinned(world_reward(completions, answer, prompts=prompts), 4)


def one_in_16(completions: Sequence[Any], answer: Sequence[str], prompts: Sequence[Any], **kwargs: Any) -> list[float]:
    """Reward each right answer with 1 with a probability of 1/16, else 0; a reward function for TRL."""
    return _thinned(world_reward(completions, answer, prompts=prompts), 16)


def _thinned(rewards: list[float], every: int) -> list[float]:
    kept = torch.rand(len(rewards)) < 1 / every
    return [reward * keep for reward, keep in zip(rewards, kept.tolist(), strict=True)]
