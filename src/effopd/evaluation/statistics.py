"""Means over problems, with standard errors and bootstrap intervals; and pass@k.

Problems are independent of each other, and samples of one problem are not. So the samples of a problem are averaged
first, and the bootstrap resamples whole problems.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from effopd.errors import ConfigurationError, DataError

CONFIDENCE = 0.95
_RESAMPLES = 10_000


@dataclass(frozen=True)
class MeanEstimate:
    """A mean over problems.

    Attributes:
        value: The mean.
        standard_error: Standard error of the mean, from the spread between problems; NaN for a single problem.
        interval: 95 % percentile bootstrap interval. It has no width if all values are equal.
    """

    value: float
    standard_error: float
    interval: tuple[float, float]


def estimate_mean(values: Sequence[float], *, num_resamples: int = _RESAMPLES) -> MeanEstimate:
    """Average one value per problem.

    Args:
        values: One finite value per problem.
        num_resamples: Number of bootstrap resamples, at least 1.

    Raises:
        DataError: There are no values.
    """
    if not values:
        raise DataError("Got no problems to average over; expected at least one.")
    array = np.asarray(values, dtype=np.float64)
    # How often each distinct value is drawn is multinomial. Drawing these counts is the same as drawing problems, but
    # takes only as many random numbers as there are distinct values, which are few.
    distinct, counts = np.unique(array, return_counts=True)
    rng = np.random.default_rng(0)
    drawn = rng.multinomial(len(array), counts / len(array), size=num_resamples)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(drawn @ distinct / len(array), [tail, 1 - tail])
    error = float(array.std(ddof=1) / math.sqrt(len(array))) if len(array) > 1 else math.nan
    return MeanEstimate(float(array.mean()), error, (float(low), float(high)))


def estimate_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> tuple[float, float]:
    """Divide two sums over problems, and estimate the standard error of the ratio by the delta method.

    Args:
        numerators: One value per problem.
        denominators: One positive value per problem.

    Returns:
        `sum(numerators) / sum(denominators)`, and its standard error, which is NaN for a single problem.

    Raises:
        DataError: There are no problems, or the sum of the denominators is not positive.
    """
    top, bottom = np.asarray(numerators, dtype=np.float64), np.asarray(denominators, dtype=np.float64)
    if not len(top) or bottom.sum() <= 0:
        raise DataError(f"Got {len(top)} problems with a total of {bottom.sum():g}; expected something to divide by.")
    ratio = float(top.sum() / bottom.sum())
    if len(top) == 1:
        return ratio, math.nan
    residuals = top - ratio * bottom
    return ratio, float(math.sqrt(len(top) / (len(top) - 1) * (residuals**2).sum()) / bottom.sum())


def pass_at_k(num_samples: int, num_passed: int, k: int) -> float:
    """Estimate without bias, from n samples of which c pass, the probability that at least one of k samples passes.

    The estimate is `1 - C(n - c, k) / C(n, k)` (arXiv 2107.03374). It is computed from the product of `1 - k / i` over
    `i = n - c + 1, ..., n`, in which nothing overflows.

    Args:
        num_samples: Number n of samples, at least 1.
        num_passed: Number c of samples that pass, in 0..n.
        k: Number of samples of which one has to pass, in 1..n.

    Raises:
        ConfigurationError: A number is out of its range.
    """
    if not (0 <= num_passed <= num_samples and 1 <= k <= num_samples):
        raise ConfigurationError(
            f"pass@k: got k = {k} for {num_samples} samples of which {num_passed} pass; expected k in 1..{num_samples}."
        )
    if num_samples - num_passed < k:
        return 1.0
    return 1.0 - math.prod(1.0 - k / i for i in range(num_samples - num_passed + 1, num_samples + 1))
