"""How far to go along an update whose score costs no rollouts: a search that finds the best scale, and remembers it.

The score of `W_t + scale * (W_t - W_anchor)` is known to be smooth here, since every scale is scored on the same
rollouts. So the search climbs from the scale that was accepted before: to larger ones while the score improves, or else
to smaller ones; and where even the smallest is worse than W_t itself, to scales that take a part of the update back.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from statistics import median
from typing import Any

from effopd.extrapolation.search import Acceptance, Candidate, Score, SearchResult, compare

logger = logging.getLogger(__name__)

TAKEN_BACK = tuple(2.0**-k - 1 for k in range(1, 7))
"""Scales that leave 1/2, 1/4, ... 1/64 of the update."""

NUM_REMEMBERED = 4
"""Number of searches that have to agree before the user is told what they say about the learning rate."""
FAR = 4.0
"""Factor between the optimizer's own steps and the accepted ones from which the user is told."""


def line_search(
    evaluate: Callable[[float], Score],
    scales: Sequence[float],
    start: float = 0.0,
    max_kl: float | None = None,
    acceptance: Acceptance = "reference",
) -> SearchResult:
    """Climb to the scale with the best score.

    Args:
        evaluate: Function that scores the weights extrapolated by a scale, as for `search`; 0.0 asks for `W_t` itself.
        scales: Strictly increasing scales. With none, nothing is evaluated.
        start: Scale to begin with, one of `scales`; any other stands for the first of them.
        max_kl: Trust region: a candidate whose `kl_to_current` is larger, in nats per token, is not accepted. With
            None, there is no bound.
        acceptance: Rule that accepts a score against the best so far: `reference` if it is better, `paper` if it is at
            least as good.

    Returns:
        The candidates that were tried, in order, and the scale of the best, which is negative if it takes a part of the
        update back.
    """
    if not scales:
        return SearchResult(baseline=None, candidates=(), accepted_scale=0.0)
    baseline = evaluate(0.0)
    best_scale, best_score = 0.0, baseline.value
    tried: list[Candidate] = []

    def climb(ladder: Iterable[float], skip_worse: bool = False) -> bool:
        """Try scales in turn until one is not accepted, and say whether any was.

        With `skip_worse`, those that come before the first accepted one do not end it.
        """
        nonlocal best_scale, best_score
        improved = False
        for scale in ladder:
            score = evaluate(scale)
            accepted, reason = compare(score.value, best_score, acceptance)
            if accepted and max_kl is not None and not score.kl_to_current <= max_kl:
                accepted = False
                reason += f", but it is {score.kl_to_current:.3g} nats per token from W_t, and {max_kl:.3g} is allowed"
            tried.append(Candidate(scale, score, accepted, reason))
            if accepted:
                best_scale, best_score, improved = scale, score.value, True
            elif improved or not skip_worse:
                break
        return improved

    first = scales.index(start) if start in scales else 0
    smaller = tuple(reversed(scales[:first]))
    if not climb(scales[first : first + 1]):
        climb(smaller, skip_worse=True) or climb(TAKEN_BACK)
    elif not climb(scales[first + 1 :]):
        climb(smaller)
    return SearchResult(baseline, tuple(tried), best_scale)


class SearchMemory:
    """What line searches leave to the next: the scale to begin with, and whether the user's learning rate fits.

    Args:
        start: Scale that the next search begins with.
        factors: Last accepted multiples of the optimizer's own update.
        is_told: Whether the user was told about the learning rate.
    """

    def __init__(self, start: float = 0.0, factors: Sequence[float] = (), is_told: bool = False) -> None:
        self.start = start
        self.factors = list(factors)
        self.is_told = is_told

    def learn(self, accepted_scale: float, learning_rate: float, is_main_process: bool = True) -> None:
        """Note the outcome of a search, and let the main process tell the user about it, if there is something."""
        self.start = max(accepted_scale, 0.0)
        self.factors = [*self.factors, 1.0 + accepted_scale][-NUM_REMEMBERED:]
        if self.is_told or len(self.factors) < NUM_REMEMBERED or not learning_rate:
            return
        factor = median(self.factors)
        if min(self.factors) >= FAR:
            times, word = factor, "small"
        elif max(self.factors) <= 1 / FAR:
            times, word = 1 / factor, "large"
        else:
            return
        self.is_told = True
        if is_main_process:
            logger.warning(
                "Your learning rate of %g is about %.0f times too %s for this training: at each of the last %d "
                "searches, %.3g times the optimizer's own update was best. The line search makes up for it, so nothing "
                "has to be done.",
                *(learning_rate, times, word, NUM_REMEMBERED, factor),
            )

    def state(self) -> dict[str, Any]:
        """Return the arguments that make the same memory again."""
        return {"start": self.start, "factors": self.factors, "is_told": self.is_told}
