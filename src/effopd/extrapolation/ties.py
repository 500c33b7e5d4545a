"""Validations that tell nothing: every completion got the same score, all wrong or all right; or none got any."""

import math
import warnings

from effopd.extrapolation.search import SearchResult

# Standard error, relative to the score, up to which the scores of the completions count as equal: a mean is rounded.
LARGEST_ERROR = 1e-9


def all_scores_equal(result: SearchResult) -> bool:
    """Whether every completion of W_t and of all candidates got one and the same score.

    It is False if nothing was tried, and if one prompt alone was scored, for which no standard error is known.
    """
    if result.baseline is None:
        return False
    value = result.baseline.value
    return all(
        score.value == value and score.stderr <= LARGEST_ERROR * max(1.0, abs(value))
        for score in (result.baseline, *(candidate.score for candidate in result.candidates))
    )


def warn_of_ties(result: SearchResult, step: int) -> bool:
    """Warn of a validation that tells nothing, and say whether it was one.

    W_t has no score, so that nothing was tried; or a candidate was accepted although every score is equal: the paper's
    rule (arXiv 2605.11739, EffOPD: V(candidate) >= best) accepts such ties up to the largest scale.
    """
    if result.baseline is not None and not math.isfinite(result.baseline.value):
        warnings.warn(
            f"Step {step}: the validation score of W_t is {result.baseline.value}, so no candidate was tried. Either "
            "the weights diverged; or the reward gave None or NaN for all validation completions, or infinity for one: "
            "then give prompts that it can judge (validation_dataset). This warning is given once.",
            stacklevel=2,
        )
        return True
    if not result.accepted_scale or not all_scores_equal(result):
        return False
    assert result.baseline is not None
    warnings.warn(
        f"Step {step}: all validation completions, of W_t and of every candidate, have the score "
        f"{result.baseline.value:g}, so they tell nothing about the candidates. The rule score >= best accepts ties, "
        f"and so the scale {result.accepted_scale:g}. Validate on prompts of which the model answers some right and "
        "some wrong (validation_dataset), by validator='teacher_kl', or with min_delta=1, which refuses ties. This "
        "warning is given once; extrapolations.jsonl marks such steps by all_scores_equal.",
        stacklevel=2,
    )
    return True
