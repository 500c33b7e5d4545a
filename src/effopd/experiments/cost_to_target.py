"""What a run had spent when it reached a target accuracy.

A run that stopped before the target is censored: all that is known is that the target would have cost more than the run
had spent. So every cost is a `CostRange`: `(cost, cost)` for a run that reached the target, and `(spent, infinity)` for
one that did not.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from effopd.errors import DataError

CostRange = tuple[float, float]
"""The lower and the upper bound of a cost."""

QUANTITIES = {
    "steps_to_target": "step",
    "optimizer_steps_to_target": "optimizer_steps",
    "rollouts_to_target": "rollouts",
    "generated_tokens_to_target": "generated_tokens",
    "teacher_tokens_to_target": "teacher_tokens",
    "seconds_to_target": "seconds_total",
}
"""The column of `metrics.jsonl` that each cost is read from. Files of earlier versions lack `optimizer_steps`."""


def to_target(rows: Sequence[Mapping[str, Any]], target: float) -> dict[str, Any]:
    """Find what a run had spent when its accuracy first reached a target.

    Args:
        rows: Rows of `metrics.jsonl` (see `effopd.training.metrics`), in order. The costs in them are cumulative and
            include those of validation.
        target: Accuracy to reach, in [0, 1]. Only rows with an evaluation count.

    Returns:
        each of `QUANTITIES` whose column the rows have, from the first row whose accuracy is at least `target`, or None
        if there is no such row;
        `validation_rollouts` and `num_accepted`, the validation rollouts and the accepted extrapolations up to that
        row, or of the whole run; `final_accuracy`, the last measured accuracy, or None; and `spent`, which maps each
        `*_to_target` to what the whole run spent of it.

    Raises:
        DataError: There are no rows.
    """
    if not rows:
        raise DataError("Got no rows; expected those of a run's metrics.jsonl. Has the run done a step?")
    accuracies = [(index, row["accuracy"]) for index, row in enumerate(rows) if row.get("accuracy") is not None]
    reached = next((index for index, accuracy in accuracies if accuracy >= target), None)
    last = rows[-1] if reached is None else rows[reached]
    counted = rows if reached is None else rows[: reached + 1]
    known = {name: column for name, column in QUANTITIES.items() if column in rows[-1]}
    costs = {name: None if reached is None else last[column] for name, column in known.items()}
    return costs | {
        "validation_rollouts": last["validation_rollouts"],
        "num_accepted": sum((row.get("accepted_scale") or 0) != 0 for row in counted),
        "final_accuracy": accuracies[-1][1] if accuracies else None,
        "spent": {name: rows[-1][column] for name, column in known.items()},
    }


def cost_range(result: Mapping[str, Any], quantity: str) -> CostRange:
    """Find the bounds of a cost.

    Args:
        result: Costs of a run, from `to_target`.
        quantity: One of `QUANTITIES`.

    Returns:
        The cost twice; or, if the run is censored, what it spent, and infinity.
    """
    value = result[quantity]
    return (result["spent"][quantity], math.inf) if value is None else (value, value)
