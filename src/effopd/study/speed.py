"""What reaching a target accuracy cost, and how much sooner one group of runs got there than another.

A run that stopped before the target is censored: all that is known is that it would have cost more than it had spent.
So every cost is a `Range`, `(cost, cost)` or `(spent, infinity)`, and medians and ratios are computed on ranges:
where censoring leaves a statistic undetermined, its range says between which bounds it lies.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from effopd.errors import DataError

Range = tuple[float, float]

# Quantity -> the column of metrics.jsonl that it is read from.
QUANTITIES = {
    "steps_to_target": "step",
    "rollouts_to_target": "rollouts",
    "generated_tokens_to_target": "generated_tokens",
    "teacher_tokens_to_target": "teacher_tokens",
    "seconds_to_target": "seconds_total",
}


def to_target(rows: Sequence[Mapping[str, Any]], target: float) -> dict[str, Any]:
    """What a run had spent when its accuracy first reached a target.

    Args:
        rows: Rows of `metrics.jsonl` (see `effopd.training.metrics`), in order. Costs in them are cumulative and
            include those of validation.
        target: The accuracy to reach, in [0, 1]. Only rows that were evaluated count.

    Returns:
        `steps_to_target`, `rollouts_to_target`, `generated_tokens_to_target`, `teacher_tokens_to_target` and
        `seconds_to_target` of the first row whose accuracy is at least `target`, None if there is none;
        `validation_rollouts` of that row and `num_accepted`, the extrapolations accepted up to it, or those of the
        whole run; `final_accuracy`, the last one measured, or None; `spent`, a map from each `*_to_target` to what
        the whole run spent of it.

    Raises:
        DataError: There are no rows.
    """
    if not rows:
        raise DataError("Got no rows; expected those of a run's metrics.jsonl. Has the run done a step?")
    accuracies = [(index, row["accuracy"]) for index, row in enumerate(rows) if row.get("accuracy") is not None]
    reached = next((index for index, accuracy in accuracies if accuracy >= target), None)
    last = rows[-1] if reached is None else rows[reached]
    counted = rows if reached is None else rows[: reached + 1]
    costs = {name: None if reached is None else last[column] for name, column in QUANTITIES.items()}
    return costs | {
        "validation_rollouts": last["validation_rollouts"],
        "num_accepted": sum((row.get("accepted_scale") or 0) > 0 for row in counted),
        "final_accuracy": accuracies[-1][1] if accuracies else None,
        "spent": {name: rows[-1][column] for name, column in QUANTITIES.items()},
    }


def cost_range(result: Mapping[str, Any], quantity: str) -> Range:
    """A cost from `to_target` as a range: itself twice, or from what was spent to infinity if the run is censored."""
    value = result[quantity]
    return (result["spent"][quantity], math.inf) if value is None else (value, value)


@dataclass(frozen=True)
class Estimate:
    """A statistic of runs some of which may be censored, with its bootstrap interval.

    Attributes:
        at_least: Lower bound of the statistic.
        at_most: Upper bound; equal to `at_least` where censoring leaves no doubt, infinite where it leaves none.
        low: Lower end of the interval (percentile of the resampled lower bounds).
        high: Upper end of the interval (percentile of the resampled upper bounds), possibly infinite.
    """

    at_least: float
    at_most: float
    low: float
    high: float

    @property
    def is_exact(self) -> bool:
        """Whether censoring leaves no doubt about the statistic."""
        return self.at_least == self.at_most

    def to_json(self) -> dict[str, float | None]:
        """As numbers for JSON, which has no infinity: None stands for it."""
        return {key: value if math.isfinite(value) else None for key, value in vars(self).items()}

    def format(self, spec: str = ",.0f", interval: bool = True) -> str:
        """As text: `8,192 [7,936, 8,448]`; where censored, `> 100,000 [95,000, no bound]`, `< 0.4 [0.0, 0.5]`."""
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


def median_estimate(
    costs: Sequence[Range], *, confidence: float = 0.95, num_resamples: int = 10_000, seed: int = 0
) -> Estimate:
    """Median cost over runs, with a percentile bootstrap interval that resamples the runs.

    At a confidence of 0.95 this is the range of up to five runs; the range of n independent runs covers
    the true median with probability 1 - 2 * 0.5**n: 94 % for five, 75 % for three.

    Args:
        costs: The cost of each run (see `cost_range`).
        confidence: Coverage of the interval, in (0, 1).
        num_resamples: Bootstrap resamples.
        seed: Of the resampling.

    Returns:
        The median. If more than half of the runs are censored it has no upper bound.

    Raises:
        DataError: There are no runs.
    """
    lower, upper = _bounds(costs)
    at_least, at_most = _resampled_medians(lower, upper, num_resamples, np.random.default_rng(seed))
    return _estimate((np.median(lower), np.median(upper)), at_least, at_most, confidence)


def ratio_estimate(
    numerator: Sequence[Range],
    denominator: Sequence[Range],
    *,
    confidence: float = 0.95,
    num_resamples: int = 10_000,
    seed: int = 0,
) -> Estimate:
    """Ratio of the median costs of two groups of runs, with a percentile bootstrap interval.

    The runs of the two groups are resampled independently. A speed-up has the slower method's runs as numerator.

    Args:
        numerator: Costs of one group, all positive.
        denominator: Costs of the other.
        confidence: Coverage of the interval, in (0, 1).
        num_resamples: Bootstrap resamples.
        seed: Of the resampling.

    Returns:
        The ratio: a lower bound where the numerator's median is censored, an upper bound where the denominator's is,
        and (0, infinity), nothing, where both are.

    Raises:
        DataError: A group has no runs.
    """
    rng = np.random.default_rng(seed)
    top, bottom = _bounds(numerator), _bounds(denominator)
    top_low, top_high = _resampled_medians(*top, num_resamples, rng)
    bottom_low, bottom_high = _resampled_medians(*bottom, num_resamples, rng)
    point = (np.median(top[0]) / np.median(bottom[1]), np.median(top[1]) / np.median(bottom[0]))
    return _estimate(point, top_low / bottom_high, top_high / bottom_low, confidence)


_Floats = npt.NDArray[np.float64]


def _bounds(costs: Sequence[Range]) -> tuple[_Floats, _Floats]:
    if not costs:
        raise DataError("Got no runs to take a median of; expected at least one.")
    lower, upper = np.array(costs, dtype=np.float64).T
    return lower, upper


def _resampled_medians(
    lower: _Floats, upper: _Floats, num_resamples: int, rng: np.random.Generator
) -> tuple[_Floats, _Floats]:
    """Medians of lower and upper bounds of the same resampled runs, each [num_resamples]."""
    chosen = rng.integers(len(lower), size=(num_resamples, len(lower)))
    return np.median(lower[chosen], axis=1), np.median(upper[chosen], axis=1)


def _estimate(
    point: tuple[np.floating[Any], np.floating[Any]], at_least: _Floats, at_most: _Floats, confidence: float
) -> Estimate:
    tail = (1 - confidence) / 2
    low = np.quantile(at_least, tail, method="inverted_cdf")  # no interpolation: values may be infinite
    high = np.quantile(at_most, 1 - tail, method="inverted_cdf")
    return Estimate(float(point[0]), float(point[1]), float(low), float(high))
