"""Half-precision weights that an update hardly changes: when to warn of that, and when not to extrapolate it."""

import warnings

import torch

from effopd.extrapolation.snapshot import Displacement

# Shares of changed elements of half-precision weights. In the other elements, the optimizer's updates round to nothing.
# Below 0.5, the change has a cosine of less than 0.9 with the intended one; below 0.1, of less than 0.5.
WARN_CHANGED_FRACTION = 0.5
MIN_CHANGED_FRACTION = 0.1


def reason_to_skip(displacement: Displacement) -> str | None:
    """Say why candidates of this displacement are not worth validating; None if they are."""
    if not displacement.changed_fraction:
        return "no weight differs from the anchor"
    if _half_precision(displacement) and displacement.changed_fraction < MIN_CHANGED_FRACTION:
        return (
            f"only {displacement.changed_fraction:.1%} of the half-precision weights differ from the anchor, so "
            "that their direction is that of rounding"
        )
    if not displacement.moving:
        return "no parameter reaches the threshold of the guide"
    return None


def warn_of_underflow(displacement: Displacement, step: int) -> bool:
    """Warn if the updates of most half-precision weights round to nothing, and say whether they do."""
    half = _half_precision(displacement)
    if not half or displacement.changed_fraction >= WARN_CHANGED_FRACTION:
        return False
    skipped = "Nothing is extrapolated here. " if reason_to_skip(displacement) else ""
    warnings.warn(
        f"Step {step}: only {displacement.changed_fraction:.1%} of the weights differ from the anchor, because "
        f"updates round to nothing in {half}. {skipped}Train in mixed precision with float32 master weights: load "
        "the model with dtype='float32' and set bf16=True. This warning is given once.",
        stacklevel=2,
    )
    return True


def _half_precision(displacement: Displacement) -> str:
    """List the half-precision dtypes among the selected parameters."""
    return ", ".join(sorted(str(dtype) for dtype in displacement.largest.keys() & {torch.bfloat16, torch.float16}))
