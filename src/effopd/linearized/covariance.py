"""The spread of gradients between completions, whose trace says how many of them a mean gradient needs.

A completion's gradient is the sum over its tokens, divided by the mean number of tokens of a completion, so that the
mean over completions is the gradient per token: that of distillation has the mean -b. Completions of different prompts
are independent, and tokens of one are not, so completions are what is counted.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.stats import bootstrap
from torch import Tensor

from effopd.linearized.loss import kl_derivative
from effopd.linearized.root import Derivative, GaussNewtonRoot, Vector, dot


class Spread(NamedTuple):
    """The gradients of single completions around their mean.

    Attributes:
        mean: The mean gradient.
        deviations: Squared distance of each completion's gradient from the mean, times N / (N - 1); their mean
            estimates the trace of the covariance without bias. [N]
    """

    mean: Vector
    deviations: list[float]

    @property
    def trace(self) -> float:
        """Trace of the covariance of a completion's gradient."""
        return math.fsum(self.deviations) / len(self.deviations)

    def interval(self, seed: int) -> tuple[float, float]:
        """Compute the 95 % bootstrap interval of the trace, over completions, with the mean gradient as it is."""
        found = bootstrap((np.array(self.deviations),), np.mean, method="percentile", rng=seed).confidence_interval
        return float(found.low), float(found.high)

    @property
    def squared_mean(self) -> float:
        """Squared norm of the true mean, without the part that is noise of the sample; it can come out below 0."""
        return dot(self.mean, self.mean) - self.trace / len(self.deviations)

    @property
    def standard_error(self) -> float:
        """Standard error of the mean gradient, relative to its norm; infinite if the mean is not told from 0."""
        squared = self.squared_mean
        return math.sqrt(self.trace / len(self.deviations) / squared) if squared > 0 else math.inf


def gradient_spread(root: GaussNewtonRoot, derivative: Derivative, mean: Vector | None = None) -> Spread:
    """Measure how far the gradients of single completions are from their mean: a backward pass for each.

    Args:
        root: The model and its N contexts, at least two.
        derivative: Function that returns the derivative of each token's loss by its logits.
        mean: The mean gradient, if it is known.
    """
    count, tokens = len(root.contexts.input_ids), len(root.token_ids)
    if mean is None:
        mean = root.gradient(lambda z, where: derivative(z, where) / tokens)
    squared_mean = dot(mean, mean)
    deviations = []
    for part in root.parts(1):
        own = root.gradient(lambda z, where: derivative(z, where) * count / tokens, parts=[part])
        squared = dot(own, own) - 2 * dot(own, mean) + squared_mean
        deviations.append(max(squared, 0.0) * count / (count - 1))  # rounding may leave less than 0
    return Spread(mean, deviations)


def distillation(teacher_TV: Tensor) -> Derivative:
    """Return the derivative of the exact reverse KL at each token: the estimator `full_vocab`."""
    return lambda z, where: kl_derivative(z, teacher_TV[where].to(z))


def sampled_distillation(root: GaussNewtonRoot, teacher_TV: Tensor) -> Derivative:
    """Return the derivative of a policy gradient whose reward is each token's log-ratio: the estimator `sampled`."""

    def derivative(z: Tensor, where: slice) -> Tensor:
        log_p, log_q = z.log_softmax(-1), teacher_TV[where].to(z).log_softmax(-1)
        tokens = root.token_ids[where, None]
        return (log_q - log_p).gather(-1, tokens) * _minus_score(log_p, tokens)

    return derivative


def reinforcement(root: GaussNewtonRoot, rewards: Sequence[float]) -> Derivative:
    """Return the derivative of a policy gradient whose reward is a completion's, less the mean of the others'.

    Args:
        root: The model and its N contexts, at least two.
        rewards: One reward per completion, [N].
    """
    count, mean = len(rewards), math.fsum(rewards) / len(rewards)
    advantages = torch.tensor([(reward - mean) * count / (count - 1) for reward in rewards], dtype=torch.float64)
    lengths = root.contexts.completion_mask.sum(1).cpu()
    advantages_T = advantages.repeat_interleave(lengths)

    def derivative(z: Tensor, where: slice) -> Tensor:
        return advantages_T[where, None].to(z) * _minus_score(z.log_softmax(-1), root.token_ids[where, None])

    return derivative


def cosine(left: Vector, right: Vector) -> float:
    """Compute the cosine between two vectors as long as the model; NaN if one of them is 0."""
    norms = math.sqrt(dot(left, left) * dot(right, right))
    return dot(left, right) / norms if norms else math.nan


def half_means(root: GaussNewtonRoot, derivative: Derivative) -> tuple[Vector, Vector]:
    """Compute the mean gradients of the first and of the second half of the completions."""
    parts = list(root.parts(1))
    middle = len(parts) // 2
    return root.gradient(derivative, parts=parts[:middle]), root.gradient(derivative, parts=parts[middle:])


def _minus_score(log_p_TV: Tensor, tokens_T1: Tensor) -> Tensor:
    """Compute the derivative of -log p(token) by the logits, [T, V]."""
    p = log_p_TV.exp()
    return p.scatter_add(-1, tokens_T1, -torch.ones_like(tokens_T1, dtype=p.dtype))
