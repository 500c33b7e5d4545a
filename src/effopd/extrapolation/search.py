"""How far to extrapolate: the accept/reject rule of EffOPD (arXiv 2605.11739), free of models and trainers.

best = V(W_t)
for scale in scales:                     # 2, 4, 6, 8, 10 in the paper
    score = V(W_t + scale * (W_t - W_anchor))
    stop unless score >= best            # `reference`: score > best
    best = score, accept the candidate

Where V judges candidates by what W_t wrote, the accepted ones are confirmed afterwards, from the largest scale down, by
what they write themselves: the first whose own score is no worse than V(W_t) stands.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

from effopd.errors import ConfigurationError

Acceptance = Literal["paper", "reference"]
LARGEST_SCALE = 3e38  # of float32, in which candidates are computed
PAPER_SCALES = (2.0, 4.0, 6.0, 8.0, 10.0)


@dataclass(frozen=True)
class Score:
    """What validating one set of weights gave and cost.

    Attributes:
        value: Mean score over the validation prompts; higher is better.
        stderr: Standard error of that mean over prompts; NaN with fewer than two.
        rollouts: Completions sampled.
        generated_tokens: Tokens in them, end-of-sequence included.
        teacher_tokens: Tokens the teacher scored.
    """

    value: float
    stderr: float = math.nan
    rollouts: int = 0
    generated_tokens: int = 0
    teacher_tokens: int = 0


@dataclass(frozen=True)
class Candidate:
    """One scale that was tried.

    Attributes:
        scale: Multiple of `W_t - W_anchor` that was added to W_t.
        score: What the search compared.
        accepted: Whether the candidate was accepted, and confirmed where that was asked for.
        reason: Why it was accepted or not, in words.
        confirmation: Its score on completions of its own, where that was asked for.
    """

    scale: float
    score: Score
    accepted: bool
    reason: str
    confirmation: Score | None = None


@dataclass(frozen=True)
class SearchResult:
    """The outcome of one trigger. `accepted_scale` is 0.0 when every candidate was rejected."""

    baseline: Score | None
    candidates: tuple[Candidate, ...]
    accepted_scale: float


def check_scales(scales: Sequence[float]) -> tuple[float, ...]:
    """Return the scales as floats.

    Raises:
        ConfigurationError: A scale is not positive or not a finite float32, or they do not increase strictly.
    """
    checked = tuple(float(scale) for scale in scales)
    if any(not 0 < scale <= LARGEST_SCALE for scale in checked) or any(
        later <= earlier for earlier, later in pairwise(checked)
    ):
        raise ConfigurationError(
            f"Extrapolation scales must be positive, finite and strictly increasing, got {list(scales)}. "
            f"The paper's are {list(PAPER_SCALES)}; an empty list switches extrapolation off."
        )
    return checked


def search(
    evaluate: Callable[[float], Score],
    scales: Sequence[float],
    acceptance: Acceptance = "paper",
    confirm: Callable[[float], Score] | None = None,
) -> SearchResult:
    """Try increasing scales until one is not accepted.

    Args:
        evaluate: Scores the weights extrapolated by a scale; 0.0 asks for `W_t` itself. A candidate whose weights
            or logits are not finite is reported as a score of NaN.
        scales: Strictly increasing, as `check_scales` returns them. Empty: nothing is evaluated.
        acceptance: `paper` accepts a score at least as good as the best so far, `reference` (the public code of
            the paper) only a better one. A score that is not finite is never accepted.
        confirm: Scores an accepted candidate once more, on completions that it samples itself. Candidates are confirmed
            from the largest accepted scale down, until one compares with the score of `W_t` as `acceptance` says. None:
            nothing is confirmed.

    Returns:
        Every candidate that was tried, in order, and the scale of the last one accepted.
    """
    if not scales:
        return SearchResult(baseline=None, candidates=(), accepted_scale=0.0)
    baseline = evaluate(0.0)
    best = baseline.value
    candidates: list[Candidate] = []
    for scale in scales:
        score = evaluate(scale)
        accepted, reason = _compare(score.value, best, acceptance)
        candidates.append(Candidate(scale, score, accepted, reason))
        if not accepted:
            break
        best = score.value
    if confirm is not None:
        candidates = _confirmed(candidates, baseline.value, confirm, acceptance)
    accepted_scale = max((candidate.scale for candidate in candidates if candidate.accepted), default=0.0)
    return SearchResult(baseline, tuple(candidates), accepted_scale)


def _compare(score: float, best: float, acceptance: Acceptance) -> tuple[bool, str]:
    """Whether a score is accepted against the best so far, and why."""
    if not math.isfinite(score):
        return False, f"score {score} is not finite"
    if not math.isfinite(best):
        return False, f"the score to beat is {best}"
    accepted = score >= best if acceptance == "paper" else score > best
    sign = ">=" if acceptance == "paper" else ">"
    return accepted, f"{score:.6g} {sign if accepted else 'not ' + sign} {best:.6g}"


def _confirmed(
    candidates: Sequence[Candidate], baseline: float, confirm: Callable[[float], Score], acceptance: Acceptance
) -> list[Candidate]:
    """The candidates, of which those beyond the first confirmed one are not accepted any more."""
    result = list(candidates)
    for index in reversed(range(len(result))):
        if not result[index].accepted:
            continue
        score = confirm(result[index].scale)
        accepted, reason = _compare(score.value, baseline, acceptance)
        reason = f"{result[index].reason}; on completions of its own {reason}"
        result[index] = replace(result[index], accepted=accepted, reason=reason, confirmation=score)
        if accepted:
            break
    return result
