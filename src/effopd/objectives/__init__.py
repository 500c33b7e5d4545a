"""Objectives of on-policy distillation that TRL does not ship. Pure functions of tensors.

`full_vocab`, the exact reverse KL per token, is TRL's own (`DistillationTrainer` with `beta=1`).
"""

from effopd.objectives.sampled import sampled_reverse_kl

__all__ = ["sampled_reverse_kl"]
