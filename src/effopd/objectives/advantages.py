"""Advantages of PPO: generalized advantage estimation (arXiv 1506.02438, equations 11 and 16).

Shape suffixes: B sequences, T completion tokens.
"""

import torch


def generalized_advantages(
    rewards_B: torch.Tensor, values_BT: torch.Tensor, mask_BT: torch.Tensor, gamma: float, gae_lambda: float
) -> torch.Tensor:
    """Compute the advantage of each token of completions that are rewarded at their last token.

    With `gamma = gae_lambda = 1`, it is the reward minus the value.

    Args:
        rewards_B: Reward of each completion, [B].
        values_BT: What the critic expects before each token is written, [B, T].
        mask_BT: 1 for the tokens of a completion, which come first, and 0 for padding, [B, T].
        gamma: Discount per token, in [0, 1].
        gae_lambda: Weight of longer estimates, in [0, 1]: 0 relies on the critic, 1 on the reward.

    Returns:
        The advantages, in the dtype of `values_BT`, 0 where the mask is 0, [B, T]. With the values they add up to the
        returns that the critic is trained on.
    """
    mask_BT = mask_BT.to(values_BT.dtype)
    follows_BT = torch.nn.functional.pad(mask_BT[:, 1:], (0, 1))
    last_BT = mask_BT - follows_BT
    next_values_BT = torch.nn.functional.pad(values_BT[:, 1:], (0, 1)) * follows_BT
    errors_BT = last_BT * rewards_B[:, None].to(values_BT.dtype) + gamma * next_values_BT - values_BT
    advantages_BT = torch.zeros_like(values_BT)
    running_B = torch.zeros_like(values_BT[:, 0])
    for t in reversed(range(values_BT.shape[1])):
        running_B = (errors_BT[:, t] + gamma * gae_lambda * running_B) * mask_BT[:, t]
        advantages_BT[:, t] = running_B
    return advantages_BT
