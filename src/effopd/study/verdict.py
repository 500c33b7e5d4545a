"""From the values of a claim's statistic, one for each seed of each world, to a verdict.

A world: the mean over seeds and its 95 % t-interval. The claim holds there if the whole interval is on its side of the
threshold, fails there if the whole interval is on the other, and is undecided otherwise.

All worlds: the mean of the worlds' means. The worlds are taken as given, as those that the study is about, and are not
a sample of others: the variance is the sum of the worlds' variances over their number squared, and the degrees of
freedom are Welch's and Satterthwaite's. `p` is twice the smaller one-sided p-value of the mean being on one side of the
threshold; Holm's procedure adjusts it over all claims of the study that have one.

The verdict is that of the side on which the mean lies if the adjusted p is below 0.05 and no world decides for the
other side by its own interval; otherwise it is undecided. So a claim that holds in one world and fails in another is
undecided.

Bounds count as values. Values that the true ones are at least as large as can show that the true mean lies above the
threshold, since the mean of the bounds lies below it; they cannot show that it lies below. So a verdict is held back if
there is a bound towards its other side. A world in which all seeds have the same value has no interval, and with it the
whole has none.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from scipy.stats import t as student_t

from effopd.study.claims.claim import Bound, Claim

LEVEL = 0.05
Verdict = Literal["supported", "contradicted", "undecided", "not measured"]


class Comparison(NamedTuple):
    """A mean, with its interval, against the threshold of a claim.

    Attributes:
        estimate: The mean, of ratios the geometric one.
        low: Lower end of its 95 % interval; None with too few values.
        high: Upper end.
        p_for: One-sided p-value of the claim, against its being false: small if it holds.
        p_against: One-sided p-value of its opposite.
    """

    estimate: float
    low: float | None
    high: float | None
    p_for: float | None
    p_against: float | None

    @property
    def p(self) -> float | None:
        """The two-sided p-value, in [0, 1]; None with too few values."""
        if self.p_for is None or self.p_against is None:
            return None
        return min(1.0, 2 * min(self.p_for, self.p_against))

    def verdict(self, p: float | None) -> Verdict:
        """Decide by a p-value, adjusted or not, and by the side on which the mean lies."""
        if p is None or p >= LEVEL or self.p_for is None or self.p_against is None:
            return "undecided"
        return "supported" if self.p_for < self.p_against else "contradicted"


def compare_world(claim: Claim, values: Sequence[float]) -> Comparison:
    """Test a claim in one world.

    Args:
        claim: The claim.
        values: Its statistic for each seed, at least one.
    """
    return _compare(claim, [values])


def compare_worlds(claim: Claim, values: Mapping[str, Sequence[float]]) -> Comparison:
    """Test a claim over worlds, of which each has at least one value. A world with a single value gives no interval."""
    return _compare(claim, list(values.values()))


def _compare(claim: Claim, groups: Sequence[Sequence[float]]) -> Comparison:
    transform, back = (np.log, np.exp) if claim.is_ratio else (np.asarray, np.asarray)
    arrays = [np.asarray(transform(np.asarray(group, dtype=float))) for group in groups]
    mean = float(np.mean([array.mean() for array in arrays]))
    if any(len(array) < 2 for array in arrays):
        return Comparison(float(back(mean)), None, None, None, None)
    parts = [float(array.var(ddof=1)) / len(array) / len(arrays) ** 2 for array in arrays]
    # Rounding errors are no spread: of values that are all equal, nothing is known about how seeds differ.
    if any(float(array.std()) <= 1e-12 * max(1.0, abs(float(array.mean()))) for array in arrays):
        return Comparison(float(back(mean)), None, None, None, None)
    error = math.sqrt(sum(parts))
    freedom = sum(parts) ** 2 / sum(part**2 / (len(array) - 1) for part, array in zip(parts, arrays, strict=True))
    half = float(student_t.ppf(1 - LEVEL / 2, freedom)) * error
    p_for, p_against = _one_sided(claim, mean, error, freedom)
    return Comparison(float(back(mean)), float(back(mean - half)), float(back(mean + half)), p_for, p_against)


def _one_sided(claim: Claim, mean: float, error: float, freedom: float) -> tuple[float, float]:
    """Compute the p-values of the claim and of its opposite."""

    def above(limit: float) -> float:
        """Compute the p-value of the true mean being above the limit."""
        return float(student_t.sf((mean - limit) / error, freedom))

    limit = math.log(claim.threshold) if claim.is_ratio else claim.threshold
    if claim.direction == "above":
        return above(limit), 1 - above(limit)
    if claim.direction == "below":
        return 1 - above(limit), above(limit)
    # Two one-sided tests: both have to reject for the mean to be shown within; one of the opposite two, for without.
    return max(above(-limit), 1 - above(limit)), min(above(limit), 1 - above(-limit))


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Adjust p-values by Holm's step-down procedure, so that the chance of any false rejection is at most the level.

    Args:
        p_values: p-values by name of the claim.

    Returns:
        Adjusted p-values by name, at most 1.
    """
    adjusted, largest = {}, 0.0
    for rank, (name, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p))
        adjusted[name] = largest
    return adjusted


def held_back(verdict: Verdict, claim: Claim, values: Iterable[float]) -> Verdict:
    """Return a verdict, or `undecided` if the true value behind a bound could lie on its other side."""
    if verdict not in ("supported", "contradicted"):
        return verdict
    bounds = [value.is_lower for value in values if isinstance(value, Bound)]
    if claim.direction == "within":
        return "undecided" if bounds else verdict
    says_above = (verdict == "supported") == (claim.direction == "above")
    return verdict if all(is_lower == says_above for is_lower in bounds) else "undecided"


def overall(found: Comparison, adjusted: float | None, by_world: Sequence[Verdict]) -> Verdict:
    """Decide over all worlds (see the module), with the p-value that Holm has adjusted."""
    verdict = found.verdict(adjusted)
    opposite = {"supported": "contradicted", "contradicted": "supported"}.get(verdict)
    return "undecided" if opposite in by_world else verdict
