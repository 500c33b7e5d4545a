"""Generalized advantage estimation against a plain loop over one completion."""

import pytest
import torch

from effopd.objectives import generalized_advantages


def plain(rewards: list[float], values: list[float], gamma: float, gae_lambda: float) -> list[float]:
    """Compute each advantage by the paper's formula: the discounted sum of this error and those that follow."""
    after = [*values, 0.0][1:]
    errors = [r + gamma * v_next - v for r, v, v_next in zip(rewards, values, after, strict=True)]
    weight = gamma * gae_lambda
    return [sum(weight**k * error for k, error in enumerate(errors[t:])) for t in range(len(errors))]


LENGTHS = [5, 1, 3, 0]


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rewards, values and mask of completions of unequal lengths; one is masked out."""
    torch.manual_seed(0)
    mask = torch.tensor([[1] * length + [0] * (5 - length) for length in LENGTHS])
    return torch.randn(4, dtype=torch.float64), torch.randn(4, 5, dtype=torch.float64), mask


@pytest.mark.parametrize(("gamma", "gae_lambda"), [(1.0, 1.0), (0.9, 0.7), (0.9, 0.0), (1.0, 0.95), (0.0, 1.0)])
def test_against_the_plain_loop(
    gamma: float, gae_lambda: float, batch: tuple[torch.Tensor, torch.Tensor, torch.Tensor]
) -> None:
    rewards, values, mask = batch
    found = generalized_advantages(rewards, values, mask, gamma, gae_lambda)
    assert found.dtype == torch.float64
    for row, length in enumerate(LENGTHS):
        each = [0.0] * max(length - 1, 0) + [rewards[row].item()] * (length > 0)
        expected = plain(each, values[row, :length].tolist(), gamma, gae_lambda) + [0.0] * (5 - length)
        torch.testing.assert_close(found[row], torch.tensor(expected, dtype=torch.float64))


def test_without_discount_it_is_the_return_minus_the_value(
    batch: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
) -> None:
    rewards, values, mask = batch
    found = generalized_advantages(rewards, values, mask, 1.0, 1.0)
    torch.testing.assert_close(found, (rewards[:, None] - values) * mask)
    torch.testing.assert_close((found + values)[mask.bool()], rewards[:, None].expand_as(values)[mask.bool()])
