"""Figures of training runs: accuracy against what it cost, and the cost of a target against the learning rate."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from effopd.report.drawing import COLOURS, MARKERS, save, within_unit

VANILLA, EFFOPD = COLOURS[0], COLOURS[1]
PANELS = (("step", "optimizer steps"), ("rollouts", "rollouts, validation included"), ("seconds_total", "seconds"))


class CostPoint(NamedTuple):
    """Median number of rollouts that reaching the target took at one learning rate.

    Attributes:
        learning_rate: The learning rate.
        at_least: Lower bound of the median.
        at_most: Upper bound of the median; infinite if too many runs were given up before they reached the target.
        low: Lower end of the median's confidence interval.
        high: Upper end of the median's confidence interval, infinite for the same reason.
    """

    learning_rate: float
    at_least: float
    at_most: float
    low: float
    high: float


def accuracy_figure(runs: Sequence[Mapping[str, Any]], target: float, path: Path) -> list[Path]:
    """Draw accuracy against steps, rollouts and seconds, for vanilla OPD and for EffOPD.

    There is a row of panels for each learning rate. Each thin line is a run with one seed, and the thick line is their
    median. A ring marks an accepted extrapolation. The number above a panel is the median cost of the target.

    Args:
        runs: Runs as mappings with `acceleration` (`none` for vanilla OPD), `learning_rate`, `seed`, and `rows`, which
            are the rows of `metrics.jsonl`.
        target: Accuracy at which the runs stopped, in [0, 1].
        path: Path of the files; its suffix is replaced by `.svg`, `.pdf` and `.png`.

    Returns:
        The paths written.
    """
    rates = sorted({run["learning_rate"] for run in runs})
    figure = Figure(figsize=(10, 0.9 + 2.9 * len(rates)), layout="constrained")
    grid = figure.subplots(len(rates), len(PANELS), sharey=True, sharex="col", squeeze=False)
    for rate, panels in zip(rates, grid, strict=True):
        chosen = [run for run in runs if run["learning_rate"] == rate]
        for axes, (column, label) in zip(panels, PANELS, strict=True):
            _draw_panel(axes, chosen, column, target)
            if rate == rates[-1]:
                axes.set_xlabel(label)
        if rate == rates[-1]:
            within_unit(panels[0])
        panels[0].set_ylabel("accuracy" if len(rates) == 1 else f"accuracy, learning rate {rate:g}")
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)
    return save(figure, path)


def cost_figure(series: Mapping[str, Sequence[CostPoint]], path: Path, *, target: float, limit: float) -> list[Path]:
    """Draw the rollouts that reaching a target accuracy took against the learning rate.

    Args:
        series: Points of each curve, by its label. A median of which only a lower bound is known is drawn there, as a
            hollow marker with an upward arrow, which no line leads to.
        path: Path of the files; its suffix is replaced by `.svg`, `.pdf` and `.png`.
        target: Accuracy that was to be reached, in [0, 1].
        limit: Number of rollouts after which runs were given up.

    Returns:
        The paths written.
    """
    figure = Figure(figsize=(7.5, 4.6), layout="constrained")
    axes = figure.subplots()
    for index, (label, points) in enumerate(series.items()):
        _draw_costs(axes, label, points, limit, COLOURS[index], MARKERS[index], 1.06 ** (index - (len(series) - 1) / 2))
    axes.set(xscale="log", yscale="log", xlabel="learning rate", ylabel=f"rollouts to accuracy {target:g}")
    if any(math.isinf(point.at_most) for points in series.values() for point in points):
        axes.set_ylim(top=2 * limit)  # room for the arrows
    axes.set_xticks(sorted({point.learning_rate for points in series.values() for point in points}))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0e}".replace("e-0", "e-")))
    axes.xaxis.set_minor_locator(NullLocator())
    _tidy(axes.yaxis, lambda value, _: f"{value:,.0f}")
    axes.grid(axis="y", alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return save(figure, path)


def _draw_panel(axes: Axes, runs: Sequence[Mapping[str, Any]], column: str, target: float) -> None:
    axes.axhline(target, color="black", linewidth=1, linestyle=(0, (4, 3)), label=f"target {target:g}", zorder=1)
    costs: dict[str, float] = {}
    for label, colour, group in (
        ("vanilla OPD", VANILLA, [run for run in runs if run["acceleration"] == "none"]),
        ("EffOPD", EFFOPD, [run for run in runs if run["acceleration"] != "none"]),
    ):
        curves = [_curve(run["rows"], column) for run in group]
        curves = [curve for curve in curves if len(curve[0])]
        if not curves:
            continue
        if len(curves) > 1:
            for x, accuracy in curves:
                axes.plot(x, accuracy, color=colour, linewidth=0.8, alpha=0.4)
        x, accuracy = _median_curve(curves)
        axes.plot(x, accuracy, color=colour, linewidth=2.2, label=label, zorder=3)
        reached = [next((r[column] for r in run["rows"] if (r["accuracy"] or 0) >= target), math.inf) for run in group]
        costs[colour] = float(np.median(reached))
        jumps = [
            (row[column], row["accuracy"])
            for run in group
            for row in run["rows"]
            if (row.get("accepted_scale") or 0) != 0 and row["accuracy"] is not None
        ]
        if jumps:
            axes.plot(
                *zip(*jumps, strict=True),
                linestyle="none",
                marker="o",
                markersize=7,
                markerfacecolor="white",
                markeredgecolor=colour,
                markeredgewidth=1.6,
                label="accepted extrapolation",
                zorder=4,
            )
    axes.set_xscale("log")
    axes.set_xlim(right=axes.get_xlim()[1] * 1.5)  # room for the last label
    for colour, cost in costs.items():
        if math.isfinite(cost):
            side = "right" if cost == min(costs.values()) else "left"  # so that the two numbers never overlap
            axes.axvline(cost, color=colour, linewidth=1, linestyle=":", zorder=0)
            style: dict[str, Any] = {"color": colour, "ha": side, "va": "bottom", "weight": "bold"}
            axes.text(cost, 1.0, f"{cost:,.0f}", transform=axes.get_xaxis_transform(), **style)
    _tidy(axes.xaxis, _short)
    axes.grid(alpha=0.2)
    axes.spines[["top", "right"]].set_visible(False)


def _curve(rows: Sequence[Mapping[str, Any]], column: str) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    measured = [(row[column], row["accuracy"]) for row in rows if row["accuracy"] is not None]
    x, accuracy = np.array(measured, dtype=np.float64).reshape(-1, 2).T
    return x, accuracy


def _median_curve(
    curves: Sequence[tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Compute the median over runs, each interpolated between its measurements.

    A run that has stopped keeps its last accuracy.
    """
    points = np.unique(np.concatenate([x for x, _ in curves]))
    points = points[points >= max(x[0] for x, _ in curves)]
    return points, np.median([np.interp(points, x, accuracy) for x, accuracy in curves], axis=0)


def _draw_costs(
    axes: Axes, label: str, points: Sequence[CostPoint], limit: float, colour: str, marker: str, shift: float
) -> None:
    known = [point for point in points if math.isfinite(point.at_most)]
    rates = [point.learning_rate * shift for point in known]
    low = [max(point.at_least - point.low, 0.0) for point in known]
    high = [max(min(point.high, limit) - point.at_least, 0.0) for point in known]
    style: dict[str, Any] = {"color": colour, "marker": marker, "markersize": 7, "linewidth": 1.8}
    axes.errorbar(rates, [point.at_least for point in known], yerr=(low, high), capsize=3, label=label, **style)
    for point in points:
        if point not in known:  # no line leads to a bound: runs may have been given up earlier there than elsewhere
            rate, arrow = (
                point.learning_rate * shift,
                {"arrowstyle": "->", "color": colour, "linewidth": 1.8, "shrinkA": 6},
            )
            axes.annotate("", (rate, point.at_least * 1.6), (rate, point.at_least), arrowprops=arrow)
            axes.plot(rate, point.at_least, markerfacecolor="white", zorder=5, **style)


def _tidy(axis: Axis, label: Callable[[float, Any], str]) -> None:
    """Put the ticks of a logarithmic axis at 1, 2 and 5 of every decade, with these labels."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(label))
    axis.set_minor_locator(NullLocator())


def _short(value: float, _: Any = None) -> str:
    return f"{value / 1000:g}k" if value >= 1000 else f"{value:g}"
