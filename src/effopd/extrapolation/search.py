"""How far to extrapolate: the rule by which EffOPD (arXiv 2605.11739) accepts, with neither models nor trainers.

best = V(W_t)
for scale in scales:                     # 2, 4, 6, 8, 10 in the paper
    score = V(W_t + scale * (W_t - W_anchor))
    stop unless score >= best            # `reference`: score > best
    best = score, accept the candidate

Where V judges candidates by the completions of W_t, the accepted ones are confirmed afterwards on completions of their
own, from the largest scale down: the first whose own score is no worse than V(W_t) stands.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Literal

import numpy as np

from effopd.errors import ConfigurationError

Acceptance = Literal["paper", "reference"]
LARGEST_SCALE = 3e38  # about the largest float32, in which candidates are computed
PAPER_SCALES = (2.0, 4.0, 6.0, 8.0, 10.0)


@dataclass(frozen=True)
class Score:
    """What validating one set of weights gave and cost.

    Attributes:
        value: Mean score over the validation prompts; higher is better. It is NaN if the weights or their logits are
            not finite.
        stderr: Standard error of that mean over the prompts; NaN with fewer than two prompts.
        rollouts: Number of completions sampled.
        generated_tokens: Number of tokens in them, the end-of-sequence tokens included.
        teacher_tokens: Number of tokens that the teacher scored.
        kl_to_current: KL from these weights to W_t, in nats per token, on completions of W_t; NaN if not measured.
        values: Scores whose mean `value` is, if all weights of a trigger are scored on the same completions; otherwise
            empty.
    """

    value: float
    stderr: float = math.nan
    rollouts: int = 0
    generated_tokens: int = 0
    teacher_tokens: int = 0
    kl_to_current: float = math.nan
    values: tuple[float, ...] = field(default=(), repr=False)

    @classmethod
    def of(cls, values: Iterable[float], **others: Any) -> "Score":
        """Make the score of these values, which are one for each completion and which another score shares."""
        values = tuple(values)
        stderr = _standard_error(values) if len(values) > 1 else math.nan
        return cls(float(np.mean(values)), stderr, values=values, **others)

    def gain(self, other: "Score") -> tuple[float, float]:
        """Return how much better this is than `other` on the same completions, and the standard error of that.

        The error is zero if there are fewer than two completions, or if the scores of each were not kept.
        """
        gains = [value - than for value, than in zip(self.values, other.values, strict=True)]
        return self.value - other.value, _standard_error(gains) if len(gains) > 1 else 0.0


def _standard_error(values: Sequence[float]) -> float:
    with np.errstate(invalid="ignore"):  # of values that are not finite, it is NaN
        return float(np.std(values, ddof=1)) / math.sqrt(len(values))


@dataclass(frozen=True)
class Candidate:
    """One scale that was tried.

    Attributes:
        scale: Multiple of `W_t - W_anchor` that was added to W_t.
        score: Score that the search compared.
        accepted: Whether the candidate was accepted, and confirmed if that was asked for.
        reason: Reason why it was accepted or not, in words.
        confirmation: Score on completions of its own, or None if that was not asked for.
    """

    scale: float
    score: Score
    accepted: bool
    reason: str
    confirmation: Score | None = None


@dataclass(frozen=True)
class SearchResult:
    """The outcome of one trigger.

    Attributes:
        baseline: Score of `W_t`; None if nothing was tried.
        candidates: Candidates that were tried, in the order of their scales.
        accepted_scale: Scale of the weights that are left, 0.0 if none was accepted. A line search may leave one
            between -1 and 0, which takes a part of the update back.
    """

    baseline: Score | None
    candidates: tuple[Candidate, ...]
    accepted_scale: float


def check_scales(scales: Sequence[float]) -> tuple[float, ...]:
    """Check scales, and return them as floats.

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
    min_delta: float = 0.0,
) -> SearchResult:
    """Try increasing scales until one is not accepted.

    Args:
        evaluate: Function that scores the weights extrapolated by a scale; 0.0 asks for `W_t` itself. For a candidate
            whose weights or logits are not finite it returns a score of NaN.
        scales: Strictly increasing scales, as `check_scales` returns them. With none, nothing is evaluated.
        acceptance: Rule that accepts a score: `paper` if it is at least the best so far, `reference`, as in the paper's
            public code, only if it is better. A score that is not finite is never accepted.
        confirm: Function that scores an accepted candidate once more, on completions that it samples itself. Candidates
            are confirmed from the largest accepted scale down, until `acceptance` accepts one against the score of
            `W_t`. With None, nothing is confirmed.
        min_delta: Number of standard errors by which a score must also be better than the best so far, see `judge`.
            Confirmation does not ask for it. With 0, `acceptance` alone decides.

    Returns:
        The candidates that were tried, in order, and the largest scale that was accepted. None is tried if the score of
        `W_t` is not finite.
    """
    if not scales:
        return SearchResult(baseline=None, candidates=(), accepted_scale=0.0)
    baseline = evaluate(0.0)
    if not math.isfinite(baseline.value):
        return SearchResult(baseline, (), 0.0)
    best = baseline
    candidates: list[Candidate] = []
    for scale in scales:
        score = evaluate(scale)
        accepted, reason = judge(score, best, acceptance, min_delta)
        candidates.append(Candidate(scale, score, accepted, reason))
        if not accepted:
            break
        best = score
    if confirm is not None:
        candidates = _confirmed(candidates, baseline.value, confirm, acceptance)
    accepted_scale = max((candidate.scale for candidate in candidates if candidate.accepted), default=0.0)
    return SearchResult(baseline, tuple(candidates), accepted_scale)


def compare(score: float, best: float, acceptance: Acceptance) -> tuple[bool, str]:
    """Say whether a score is accepted against the best so far, and why."""
    if not math.isfinite(score):
        return False, f"score {score} is not finite"
    if not math.isfinite(best):
        return False, f"the score to beat is {best}"
    accepted = score >= best if acceptance == "paper" else score > best
    sign = ">=" if acceptance == "paper" else ">"
    return accepted, f"{score:.6g} {sign if accepted else 'not ' + sign} {best:.6g}"


def judge(score: Score, best: Score, acceptance: Acceptance, min_delta: float = 0.0) -> tuple[bool, str]:
    """Say whether a score is accepted against the best so far, and why.

    With a `min_delta` above 0, the gain must also exceed that number of standard errors. The error is that of the
    paired differences if both have `values`, and otherwise that of the difference of two independent means. Ties are
    refused then, also where every completion got the same score and the error is 0.
    """
    accepted, reason = compare(score.value, best.value, acceptance)
    if not (accepted and min_delta):
        return accepted, reason
    if score.values and best.values:
        gain, error = score.gain(best)
    else:
        gain, error = score.value - best.value, math.hypot(score.stderr, best.stderr)
    accepted = gain > min_delta * error
    than = "more than" if accepted else "but not by more than"
    return accepted, f"{reason}, {than} {min_delta:g} standard errors of {error:.3g}"


def _confirmed(
    candidates: Sequence[Candidate], baseline: float, confirm: Callable[[float], Score], acceptance: Acceptance
) -> list[Candidate]:
    """Confirm the accepted candidates from the largest scale down; those that fail are not accepted any more."""
    result = list(candidates)
    for index in reversed(range(len(result))):
        if not result[index].accepted:
            continue
        score = confirm(result[index].scale)
        accepted, reason = compare(score.value, baseline, acceptance)
        reason = f"{result[index].reason}; on completions of its own {reason}"
        result[index] = replace(result[index], accepted=accepted, reason=reason, confirmation=score)
        if accepted:
            break
    return result
