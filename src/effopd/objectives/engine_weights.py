"""Correction for a rollout engine whose probabilities are not quite those of the trainer, token by token.

Shape suffixes: B sequences, T completion tokens.
"""

import torch


def engine_weights(trainer_BT: torch.Tensor, engine_BT: torch.Tensor, clip_max: float) -> torch.Tensor:
    """Weigh each token by how much likelier the trainer is to sample it than the engine that did, at the same weights.

    The paper's public code runs with these weights, truncated at 5 (arXiv 2605.11739). Truncation leaves a small bias,
    and bounds the variance.

    Args:
        trainer_BT: Log-probabilities of the sampled tokens in the trainer, in nats, [B, T].
        engine_BT: The same in the engine, [B, T]; NaN where it gave none, which leaves the token's weight at 1.
        clip_max: Largest weight, at least 1.

    Returns:
        Weights in [0, clip_max] without gradients, [B, T].
    """
    log_ratio_BT = torch.nan_to_num(trainer_BT.detach() - engine_BT, nan=0.0)
    return torch.exp(log_ratio_BT).clamp(max=clip_max)
