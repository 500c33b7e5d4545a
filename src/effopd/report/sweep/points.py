"""The points of a sweep's curves, with their error bars."""

import math
from typing import Any

import pandas as pd
from scipy.stats import t as student_t

from effopd.report.sweep.records import SweepRecords

CONFIDENCE = 0.95
_KEYS = ["sweep", "task", "run", "kind", "value"]
# Of each quantity: the columns of its mean and of the ends of its interval over problems, and its greatest value.
_QUANTITIES = {
    "accuracy": ("mean", "low", "high", 1.0),
    "kl": ("kl_per_token", "kl_low", "kl_high", math.inf),
}


def sweep_points(records: SweepRecords) -> pd.DataFrame:
    """Compute every point of every curve: the mean over a method's training runs, with its error bar.

    Within a run, the seeds of the sampling are averaged, and so are the ends of their 95 % intervals over problems. A
    method has one run for each seed of training. If it has several, there are two intervals: the average of the runs'
    intervals over problems, and the 95 % t-interval of the mean over runs. The error bar reaches from the lower of
    their lower ends to the higher of their upper ends, because runs may agree by chance, or because they are one model,
    as the base is.

    Args:
        records: The sweep.

    Returns:
        A row for each point, in the order of the specification, with these columns: `sweep`, `task`, `run`, `kind` and
        `value`; `x` (the mean over runs), `x_low` and `x_high` (the least and the greatest); `accuracy`,
        `accuracy_low` and `accuracy_high`, in [0, 1]; `kl`, `kl_low` and `kl_high`, in nats per token, NaN where the KL
        was not measured; `update_norm` and `layer_norm` (means over runs); `relative_error` of the realised
        update (the largest; NaN where it was not measured); `num_training_seeds`, `num_seeds` (of the
        sampling, for each run) and `num_problems`.
    """
    rows = []
    for keys, group in records.results.groupby(_KEYS, sort=False):
        runs = group.groupby("training_seed").mean(numeric_only=True)
        point: dict[str, Any] = dict(zip(_KEYS, keys, strict=True))
        point |= {"x": runs["x"].mean(), "x_low": runs["x"].min(), "x_high": runs["x"].max()}
        for quantity, (mean, low, high, greatest) in _QUANTITIES.items():
            values = (runs[mean], runs[low], runs[high])
            names = (quantity, f"{quantity}_low", f"{quantity}_high")
            point |= dict(zip(names, _interval(*values, greatest), strict=True))
        point |= {"update_norm": runs["update_norm"].mean(), "layer_norm": runs["layer_norm"].mean()}
        point |= {"relative_error": group["relative_error"].max() if "relative_error" in group else math.nan}
        point |= {"num_training_seeds": len(runs), "num_seeds": group.groupby("training_seed")["seed"].nunique().min()}
        rows.append(point | {"num_problems": group["num_problems"].min()})
    points = pd.DataFrame(rows)
    orders = {"sweep": list(records.sweeps), "run": list(records.runs)}
    return points.sort_values(
        ["sweep", "task", "run", "kind", "value"],
        key=lambda column: column.map(orders[column.name].index) if column.name in orders else column,
        kind="stable",
        ignore_index=True,
    )


def shows_kl(entry: dict[str, Any], points: pd.DataFrame) -> bool:
    """Tell whether the figure and table of a sweep show the KL to the teacher.

    The KL may be known for models that other sweeps share with this one, but only `norm_matching` shows it.

    Args:
        entry: The sweep's entry of the specification.
        points: Points of the sweep on one task, from `sweep_points`.
    """
    return entry["preset"] == "norm_matching" and bool(points["kl"].notna().any())


def _interval(means: pd.Series, lows: pd.Series, highs: pd.Series, greatest: float) -> tuple[float, float, float]:
    """Compute the mean over runs and both ends of its error bar, which are cut off at 0 and at `greatest`."""
    mean, low, high = float(means.mean()), float(lows.mean()), float(highs.mean())
    if len(means) > 1:
        width = float(student_t.ppf((1 + CONFIDENCE) / 2, len(means) - 1) * means.std(ddof=1) / math.sqrt(len(means)))
        low, high = min(low, mean - width), max(high, mean + width)
    return mean, max(low, 0.0), min(high, greatest)
