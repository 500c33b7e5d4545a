"""`extrapolations.jsonl`: a line for each trigger.

    step, accepted_scale      the optimizer step, and the scale that was accepted after it; 0.0 if none was. With the
                              validator next_rollouts, the step that sampled the rollouts, and the scale that was
                              accepted before it trained on them; a negative one takes a part of the update back
    baseline                  {score, stderr} of W_t, or null if nothing was tried
    candidates                for each scale tried: scale, score, stderr, accepted, reason in words, confirmation:
                              {score, stderr} on completions of its own, or null if that was not asked for; and
                              kl_to_current: KL to W_t in nats per token, or null if it was not measured; and
                              truncation: {max, mean} over the modules of a LoRA adapter of the share of the jump that
                              keeping the rank loses, or null without an adapter
    skipped                   why nothing was tried, or null
    all_scores_equal          whether every completion of W_t and of all candidates got the same score, which tells
                              nothing; null if nothing was tried
    delta_norm                Frobenius norm of W_t - W_anchor by module kind, and `total`
    cosine_to_previous        cosine of W_t - W_anchor to the anchor's own last move; null at the first trigger
    learning_rate_multiple    what a line search multiplies the learning rate by from this step on; else 1
    changed_fraction          share of elements that differ from the anchor, in [0, 1]
    moving_fraction           share of the selected elements that candidates move, in [0, 1]; 1 without a guide
    rollouts, generated_tokens, teacher_tokens    what validation sampled, and what of it the teacher scored
    resampled_rollouts, resampled_tokens          what GRPO and RLOO sample a second time because of a jump in the
                              middle of the steps that they sample for at a time; the tokens are an estimate
    validation_seconds, extrapolation_seconds     wall time of sampling and scoring, and of arithmetic on the weights

A number that is not finite is null.
"""

from collections.abc import Mapping
from typing import Any

from effopd.extrapolation.search import Score, SearchResult
from effopd.extrapolation.snapshot import Displacement
from effopd.extrapolation.ties import all_scores_equal
from effopd.files import finite_or_none

RECORDS = "extrapolations.jsonl"
COSTS = (
    *("rollouts", "generated_tokens", "teacher_tokens", "resampled_rollouts", "resampled_tokens"),
    *("validation_seconds", "extrapolation_seconds"),
)


def make_record(
    step: int,
    result: SearchResult,
    displacement: Displacement,
    skipped: str | None,
    cost: dict[str, float],
    learning_rate_multiple: float = 1.0,
    truncation: Mapping[float, tuple[float, float]] | None = None,
) -> dict[str, Any]:
    """Make the line of one trigger; `cost` holds what this trigger alone spent, by the names in `COSTS`."""
    truncation = truncation or {}

    def entry(score: Score) -> dict[str, float | None]:
        return {"score": finite_or_none(score.value), "stderr": finite_or_none(score.stderr)}

    return {
        "step": step,
        "accepted_scale": result.accepted_scale,
        "baseline": entry(result.baseline) if result.baseline else None,
        "candidates": [
            {
                **{"scale": c.scale, **entry(c.score), "accepted": c.accepted, "reason": c.reason},
                "confirmation": entry(c.confirmation) if c.confirmation else None,
                "kl_to_current": finite_or_none(c.score.kl_to_current),
                "truncation": dict(zip(("max", "mean"), map(finite_or_none, truncation[c.scale]), strict=True))
                if c.scale in truncation
                else None,
            }
            for c in result.candidates
        ],
        "skipped": skipped,
        "all_scores_equal": all_scores_equal(result) if result.candidates else None,
        "delta_norm": {kind: finite_or_none(norm) for kind, norm in displacement.norms.items()},
        "cosine_to_previous": finite_or_none(displacement.cosine_to_previous),
        "learning_rate_multiple": learning_rate_multiple,
        "changed_fraction": displacement.changed_fraction,
        "moving_fraction": displacement.moving_fraction,
        **cost,
    }
