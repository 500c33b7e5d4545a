"""How far to extrapolate: the accept/reject rule of EffOPD (arXiv 2605.11739), free of models and trainers.

best = V(W_t)
for scale in scales:                     # 2, 4, 6, 8, 10 in the paper
    score = V(W_t + scale * (W_t - W_anchor))
    stop unless score >= best            # `reference`: score > best
    best = score, accept the candidate
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
    """One scale that was tried. `reason` says why it was accepted or not, in words."""

    scale: float
    score: Score
    accepted: bool
    reason: str


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
) -> SearchResult:
    """Try increasing scales until one is not accepted.

    Args:
        evaluate: Scores the weights extrapolated by a scale; 0.0 asks for `W_t` itself. A candidate whose weights
            are not finite is reported as a score of NaN.
        scales: Strictly increasing, as `check_scales` returns them. Empty: nothing is evaluated.
        acceptance: `paper` accepts a score at least as good as the best so far, `reference` (the public code of
            the paper) only a better one. A score that is not finite is never accepted.

    Returns:
        Every candidate that was tried, in order, and the scale of the last one accepted.
    """
    if not scales:
        return SearchResult(baseline=None, candidates=(), accepted_scale=0.0)
    baseline = evaluate(0.0)
    best, accepted_scale = baseline.value, 0.0
    candidates: list[Candidate] = []
    for scale in scales:
        score = evaluate(scale)
        if not math.isfinite(score.value):
            accepted, reason = False, f"score {score.value} is not finite"
        elif not math.isfinite(best):
            accepted, reason = False, f"the score to beat is {best}"
        else:
            accepted = score.value >= best if acceptance == "paper" else score.value > best
            sign = ">=" if acceptance == "paper" else ">"
            reason = f"{score.value:.6g} {sign if accepted else 'not ' + sign} {best:.6g}"
        candidates.append(Candidate(scale, score, accepted, reason))
        if not accepted:
            break
        best, accepted_scale = score.value, scale
    return SearchResult(baseline, tuple(candidates), accepted_scale)
