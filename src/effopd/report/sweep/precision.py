"""What a sweep's report says about realised updates that differ from the intended ones, because of rounding."""

import math

import pandas as pd
from matplotlib.axes import Axes

from effopd.report.drawing import plain
from effopd.report.sweep.records import SweepRecords

MAX_ERROR = 0.05
"""Relative error of the realised update above which a model is pointed out."""


def is_off(error: float | None, update_norm: float) -> bool:
    """Tell whether a realised update is to be pointed out.

    Args:
        error: Relative error of the realised update; None if no update was intended.
        update_norm: Norm of the realised update.
    """
    return update_norm > 0 if error is None else error > MAX_ERROR


def percent(error: float) -> str:
    """Write a relative error as a percentage of two digits."""
    return f"{100 * error:{'.0f' if error >= 0.995 else '.2g'}} %"


def note_errors(axes: Axes, points: pd.DataFrame) -> None:
    """Write the largest relative error of each run's realised updates below a panel.

    Args:
        axes: Panel to write below.
        points: Points that the panel shows, from `sweep_points`.
    """
    errors = points.groupby("run", sort=False)["relative_error"].max().dropna()
    if errors.empty:
        return
    if errors.max() == 0:
        text = "error of the update: none"
    elif errors.max() <= MAX_ERROR or len(errors) == 1:
        text = f"error of the update: at most {percent(max(errors.max(), 1e-5))}"
    else:
        each = [f"{percent(error)} ({plain(run)})" for run, error in errors.items()]
        lines = [", ".join(each[index : index + 2]) for index in range(0, len(each), 2)]
        text = "error of the update, at most: " + ",\n".join(lines)
    label = axes.get_xlabel()
    axes.set_xlabel(f"{label}\n{text}" if label else text, fontsize="small" if not label else None)


def error_sentence(points: pd.DataFrame) -> str:
    """Say in words how far the realised updates of a figure's points are from the intended ones.

    Args:
        points: Points of the figure, from `sweep_points`.

    Returns:
        A sentence with a space before it; empty for a sweep that did not measure it.
    """
    known = points[points["relative_error"].notna()]
    if known.empty:
        return ""
    worst = known.loc[known["relative_error"].idxmax()]
    text = (
        " The realised update, of the weights as they were held, differs from the intended one by at most "
        f"{percent(worst['relative_error'])} of its norm"
    )
    off = int((known["relative_error"] > MAX_ERROR).sum())
    if not off:
        return f"{text}."
    return (
        f"{text} ({worst['run']}, {worst['kind']} {worst['value']:g}), and by more than {percent(MAX_ERROR)} in {off} "
        "of the points: those show rounding. Set `dtype: float32` in the specification."
    )


def held_sentence(records: SweepRecords) -> str:
    """Say in which dtype the models were held, and how many elements of each run's checkpoints training changed.

    Args:
        records: The sweep.

    Returns:
        A paragraph; empty for a sweep that did not note it.
    """
    results = records.results
    if "dtype" not in results or results["dtype"].isna().all():
        return ""
    last = results[results["checkpoint"] == results.groupby(["run", "training_seed"])["checkpoint"].transform("max")]
    shares = last.groupby("run", sort=False)["changed_fraction"].min()
    changed = ", ".join(f"{percent(share)} ({run})" for run, share in shares.items() if not math.isnan(share))
    held = ", ".join(sorted(results["dtype"].dropna().unique()))
    return (
        f"The models were held, and computed, in {held}. Of each run's last checkpoint, this share of the elements "
        f"differs from the base's: {changed}. A change smaller than half a unit in the last place of the dtype that a "
        "checkpoint is stored in is not in the checkpoint."
    )
