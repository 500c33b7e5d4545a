"""Objectives of distillation and advantages of PPO that do not come with TRL, as pure functions of tensors.

The exact reverse KL per token, `full_vocab`, is TRL's own: `DistillationTrainer` with `beta=1`.
"""

from effopd.objectives.advantages import generalized_advantages
from effopd.objectives.engine_weights import engine_weights
from effopd.objectives.exopd import exopd_divergence, exopd_target
from effopd.objectives.sampled import sampled_reverse_kl

__all__ = ["engine_weights", "exopd_divergence", "exopd_target", "generalized_advantages", "sampled_reverse_kl"]
