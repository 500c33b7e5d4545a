"""Medians and ratios of what groups of runs cost, where some runs stopped before they reached the target.

Of such a run only a lower bound of its cost is known (see `effopd.experiments.cost_to_target`). So medians and ratios
are computed from bounds, and where censoring leaves a statistic undetermined, the result says between which bounds it
lies.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from effopd.errors import DataError
from effopd.experiments.cost_to_target import CostRange
from effopd.files import finite_or_none

CONFIDENCE = 0.95
"""Coverage of all intervals."""


@dataclass(frozen=True)
class CensoredEstimate:
    """A statistic of runs, some of which may be censored, with its bootstrap interval.

    Attributes:
        at_least: Lower bound of the statistic.
        at_most: Upper bound of the statistic. It equals `at_least` if the statistic is known exactly, and is infinite
            if there is no upper bound.
        low: Lower end of the interval, a percentile of the resampled lower bounds.
        high: Upper end of the interval, a percentile of the resampled upper bounds. It may be infinite.
    """

    at_least: float
    at_most: float
    low: float
    high: float

    @property
    def is_exact(self) -> bool:
        """Whether the statistic is known exactly, in spite of censored runs."""
        return self.at_least == self.at_most

    def to_json(self) -> dict[str, float | None]:
        """Return the numbers for JSON. JSON has no infinity, so None stands for it."""
        return {key: finite_or_none(value) for key, value in vars(self).items()}

    def format(self, spec: str = ",.0f", interval: bool = True) -> str:
        """Write the statistic and its interval, such as `8,192 [7,936, 8,448]`.

        With censored runs, it may read `> 100,000 [95,000, no bound]`, `< 0.4 [0.0, 0.5]` or `15 to 20 [10, 30]`; a
        `?` stands for a statistic of which nothing is known.

        Args:
            spec: Format specification of the numbers.
            interval: Whether to write the interval.
        """
        if self.is_exact:
            value = f"{self.at_least:{spec}}"
        elif math.isinf(self.at_most):
            value = f"> {self.at_least:{spec}}" if self.at_least else "?"
        elif self.at_least:
            value = f"{self.at_least:{spec}} to {self.at_most:{spec}}"
        else:
            value = f"< {self.at_most:{spec}}"
        if not interval:
            return value
        high = "no bound" if math.isinf(self.high) else f"{self.high:{spec}}"
        return f"{value} [{self.low:{spec}}, {high}]"


def median_cost(costs: Sequence[CostRange], *, num_resamples: int = 10_000, seed: int = 0) -> CensoredEstimate:
    """Compute the median cost over runs, with a percentile bootstrap interval that resamples the runs.

    For up to five runs, the interval is the range of the runs. The range of n independent runs covers the true median
    with probability 1 - 2 * 0.5**n, which is 94 % for five runs and 75 % for three.

    Args:
        costs: Cost of each run, from `cost_range`.
        num_resamples: Number of bootstrap resamples.
        seed: Random seed for resampling.

    Returns:
        The median. If more than half of the runs are censored, it has no upper bound.

    Raises:
        DataError: There are no runs.
    """
    lower, upper = _resampled_medians([costs], num_resamples, seed)
    return _estimate(lower[0], upper[0])


def median_cost_ratio(
    numerator: Sequence[CostRange],
    denominator: Sequence[CostRange],
    *,
    num_resamples: int = 10_000,
    seed: int = 0,
) -> CensoredEstimate:
    """Compute the ratio of the median costs of two groups of runs, with a percentile bootstrap interval.

    Runs are paired: the i-th runs of both groups have the same seed, and thus the same order of prompts and the same
    random numbers. So seeds are resampled, not runs. For a speed-up, the numerator holds the runs of the slower method.

    Args:
        numerator: Costs of one group, all positive.
        denominator: Costs of the other group, in the same order of seeds.
        num_resamples: Number of bootstrap resamples.
        seed: Random seed for resampling.

    Returns:
        The ratio. If the numerator's median is censored, it is only a lower bound; if the denominator's is, it is only
        an upper bound. If both are, nothing is known: the bounds are 0 and infinity.

    Raises:
        DataError: A group has no runs, or they are not paired.
    """
    return largest_cost_ratio([numerator], [denominator], num_resamples=num_resamples, seed=seed)


def largest_cost_ratio(
    numerators: Sequence[Sequence[CostRange]],
    denominators: Sequence[Sequence[CostRange]],
    *,
    num_resamples: int = 10_000,
    seed: int = 0,
) -> CensoredEstimate:
    """Compute the largest ratio of median costs between some groups of runs and others, as by `median_cost_ratio`.

    It is the largest median of the numerators over the smallest median of the denominators. Which groups these are is
    found anew in each resample, so that the interval accounts for their having been chosen.

    Args:
        numerators: Costs of the groups of which the costliest is chosen, all positive.
        denominators: Costs of the groups of which the cheapest is chosen. All groups are in the same order of seeds.
        num_resamples: Number of bootstrap resamples.
        seed: Random seed for resampling.

    Raises:
        DataError: A group has no runs, or the groups are not paired.
    """
    if len(numbers := {len(costs) for costs in [*numerators, *denominators]}) > 1:
        raise DataError(f"Got groups of {sorted(numbers)} runs; expected the same seeds in all of them.")
    (top_low, top_high), (bottom_low, bottom_high) = (
        _resampled_medians(groups, num_resamples, seed) for groups in (numerators, denominators)
    )
    return _estimate(top_low.max(0) / bottom_high.min(0), top_high.max(0) / bottom_low.min(0))


def median_difference(
    minuend: Sequence[float],
    subtrahend: Sequence[float],
    *,
    num_resamples: int = 10_000,
    seed: int = 0,
) -> CensoredEstimate:
    """Compute the median of one group less that of another, with a percentile bootstrap interval that resamples pairs.

    Args:
        minuend: Values of one group, all finite.
        subtrahend: Values of the other group, in the same order of seeds.
        num_resamples: Number of bootstrap resamples.
        seed: Random seed for resampling.

    Raises:
        DataError: There are no values, or they are not paired.
    """
    if len(minuend) != len(subtrahend):
        raise DataError(f"Got groups of {len(minuend)} and {len(subtrahend)} runs; expected the same seeds in both.")
    exact = [[(value, value) for value in values] for values in (minuend, subtrahend)]
    first, second = _resampled_medians(exact, num_resamples, seed)[0]
    return _estimate(first - second, first - second)


_Floats = npt.NDArray[np.float64]


def _resampled_medians(groups: Sequence[Sequence[CostRange]], num_resamples: int, seed: int) -> tuple[_Floats, _Floats]:
    """Compute the medians of the lower and of the upper bounds, of the runs themselves and of each resample.

    Returns:
        Two float64 arrays [groups, 1 + num_resamples], whose first column is that of the runs themselves.
    """
    if not all(groups):
        raise DataError("Got no runs to take a median of; expected at least one.")
    number = len(groups[0])
    resamples = np.random.default_rng(seed).integers(number, size=(num_resamples, number))
    chosen = np.concatenate([np.arange(number)[None], resamples])
    lower, upper = np.array(groups, dtype=np.float64).transpose(2, 0, 1)[..., chosen]
    return np.median(lower, axis=-1), np.median(upper, axis=-1)


def _estimate(at_least: _Floats, at_most: _Floats) -> CensoredEstimate:
    """Make the estimate from the bounds of a statistic, of the runs themselves and then of each resample."""
    tail = (1 - CONFIDENCE) / 2
    # This method does not interpolate, which infinite values would not allow.
    low = np.quantile(at_least[1:], tail, method="inverted_cdf")
    high = np.quantile(at_most[1:], 1 - tail, method="inverted_cdf")
    return CensoredEstimate(float(at_least[0]), float(at_most[0]), float(low), float(high))
