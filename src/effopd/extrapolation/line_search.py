"""How far to go along an update whose score costs no rollouts: a climb to the best scale.

The score of `W_t + scale * (W_t - W_anchor)` is known to be smooth here, since every scale is scored on the same
rollouts. So the search goes to larger scales for as long as the score improves; and where the first is worse than W_t
itself, to scales that take a part of the update back.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from effopd.extrapolation.search import Acceptance, Candidate, Score, SearchResult, compare

TAKEN_BACK = tuple(2.0**-k - 1 for k in range(1, 7))
"""Scales that leave 1/2, 1/4, ... 1/64 of the update."""


def line_search(
    evaluate: Callable[[float], Score],
    scales: Sequence[float],
    max_kl: float | None = None,
    acceptance: Acceptance = "reference",
    min_delta: float = 0.0,
) -> SearchResult:
    """Climb to the scale with the best score.

    Args:
        evaluate: Function that scores the weights extrapolated by a scale, as for `search`; 0.0 asks for `W_t` itself.
        scales: Strictly increasing scales. With none, nothing is evaluated.
        max_kl: Trust region: a candidate whose `kl_to_current` is larger, in nats per token, is not accepted. With
            None, there is no bound.
        acceptance: Rule that accepts a score against the best so far: `reference` if it is better, `paper` if it is at
            least as good.
        min_delta: Number of standard errors, of the paired differences, that the best scale has to gain over W_t.

    Returns:
        The candidates that were tried, in order, and the scale of the best, which is negative if it takes a part of the
        update back.
    """
    if not scales:
        return SearchResult(baseline=None, candidates=(), accepted_scale=0.0)
    baseline = evaluate(0.0)
    if not math.isfinite(baseline.value):  # W_t has diverged, and what is near it cannot be told
        return SearchResult(baseline, candidates=(), accepted_scale=0.0)
    best_scale, best = 0.0, baseline
    tried: list[Candidate] = []

    def climb(ladder: Iterable[float]) -> bool:
        """Try scales in turn until one is not accepted, and say whether any was."""
        nonlocal best_scale, best
        for scale in ladder:
            score = evaluate(scale)
            accepted, reason = compare(score.value, best.value, acceptance)
            if accepted and max_kl is not None and not score.kl_to_current <= max_kl:
                accepted = False
                reason += f", but it is {score.kl_to_current:.3g} nats per token from W_t, and {max_kl:.3g} is allowed"
            tried.append(Candidate(scale, score, accepted, reason))
            if not accepted:
                break
            best_scale, best = scale, score
        return best_scale != 0

    climb(scales) or climb(TAKEN_BACK)
    if min_delta:
        gain, error = best.gain(baseline)
        if gain <= min_delta * error:
            why = f", but the best gains {gain:.3g} over W_t, with a standard error of {error:.3g}"
            tried = [
                replace(each, accepted=False, reason=each.reason + why) if each.accepted else each for each in tried
            ]
            best_scale = 0.0
    return SearchResult(baseline, tuple(tried), best_scale)
