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
from effopd.files import finite_or_none

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
        return {key: finite_or_none(value) for key, value in vars(self).items()}

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
    lower, upper = _resampled_medians([costs], num_resamples, seed)
    return _estimate(lower[0], upper[0], confidence)


def ratio_estimate(
    numerator: Sequence[Range],
    denominator: Sequence[Range],
    *,
    confidence: float = 0.95,
    num_resamples: int = 10_000,
    seed: int = 0,
) -> Estimate:
    """Ratio of the median costs of two groups of runs, with a percentile bootstrap interval.

    Runs are paired: the i-th of both groups have the same seed, thus the same order of prompts and random numbers, and
    seeds are resampled, not runs. A speed-up has the slower method's runs as numerator.

    Args:
        numerator: Costs of one group, all positive.
        denominator: Costs of the other, in the same order of seeds.
        confidence: Coverage of the interval, in (0, 1).
        num_resamples: Bootstrap resamples.
        seed: Of the resampling.

    Returns:
        The ratio: a lower bound where the numerator's median is censored, an upper bound where the denominator's is,
        and (0, infinity), nothing, where both are.

    Raises:
        DataError: A group has no runs, or they are not paired.
    """
    return spread_estimate([numerator], [denominator], confidence=confidence, num_resamples=num_resamples, seed=seed)


def spread_estimate(
    numerators: Sequence[Sequence[Range]],
    denominators: Sequence[Sequence[Range]],
    *,
    confidence: float = 0.95,
    num_resamples: int = 10_000,
    seed: int = 0,
) -> Estimate:
    """Largest median cost of some groups of runs over the smallest of others, as `ratio_estimate` gives it for two.

    Which groups these are is found anew in each resample, so that the interval accounts for having chosen them.
    """
    if len(numbers := {len(costs) for costs in [*numerators, *denominators]}) > 1:
        raise DataError(f"Got groups of {sorted(numbers)} runs; expected the same seeds in all of them.")
    (top_low, top_high), (bottom_low, bottom_high) = (
        _resampled_medians(groups, num_resamples, seed) for groups in (numerators, denominators)
    )
    return _estimate(top_low.max(0) / bottom_high.min(0), top_high.max(0) / bottom_low.min(0), confidence)


_Floats = npt.NDArray[np.float64]


def _resampled_medians(groups: Sequence[Sequence[Range]], num_resamples: int, seed: int) -> tuple[_Floats, _Floats]:
    """Medians of lower and of upper bounds, each [groups, 1 + num_resamples]: of the runs, then of the resampled."""
    if not all(groups):
        raise DataError("Got no runs to take a median of; expected at least one.")
    number = len(groups[0])
    resamples = np.random.default_rng(seed).integers(number, size=(num_resamples, number))
    chosen = np.concatenate([np.arange(number)[None], resamples])
    lower, upper = np.array(groups, dtype=np.float64).transpose(2, 0, 1)[..., chosen]
    return np.median(lower, axis=-1), np.median(upper, axis=-1)


def _estimate(at_least: _Floats, at_most: _Floats, confidence: float) -> Estimate:
    """From the bounds of a statistic, first of the runs, then of the resampled ones."""
    tail = (1 - confidence) / 2
    low = np.quantile(at_least[1:], tail, method="inverted_cdf")  # no interpolation: values may be infinite
    high = np.quantile(at_most[1:], 1 - tail, method="inverted_cdf")
    return Estimate(float(at_least[0]), float(at_most[0]), float(low), float(high))
