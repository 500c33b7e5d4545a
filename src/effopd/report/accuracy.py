"""Accuracy against optimizer steps for several runs and tasks: a figure, and a table of its points."""

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from effopd.files import write_text
from effopd.report.drawing import (
    line_style,
    over_training_axes,
    plain,
    row_of_panels,
    save,
    within_unit,
)
from effopd.report.table import NONE, Table

_NOTE = (
    "A step's accuracy is the mean over its evaluations. The 95 % interval, which is the error bar or the band, is that"
    " over problems for one evaluation (bootstrap, or normal for training's own); for several, that on average or "
    "Student's t-interval of the mean, whichever reaches further. A baseline is the last step of it that was evaluated,"
    " where steps are known."
)


def write_accuracy(points: pd.DataFrame, out: Path) -> list[Path]:
    """Write the figure as SVG, PDF and PNG, and the table as Markdown.

    Args:
        points: A row for each point, with the columns role (`run` or `baseline`), name, task, step (of a baseline, -1
            if it is not known), accuracy with its 95 % interval low and high, in [0, 1], evaluations (their number),
            and problems (null if it is not known).
        out: Path of the files, to which the suffixes are added.

    Returns:
        The paths written, with the table as the last one.
    """
    # A suffix is added, not replaced: `qwen2.5` is a name without one.
    written = save(draw_accuracy(points), out.with_name(out.name + ".svg"))
    table = out.with_name(out.name + ".md")
    write_text(table, _table(points).markdown())
    return [*written, table]


def draw_accuracy(points: pd.DataFrame) -> Figure:
    """Draw a panel for each task, with a curve for each run and a dashed line with a band for each baseline.

    Args:
        points: A row for each point, with the columns that `write_accuracy` describes.
    """
    runs = points[points["role"] == "run"]
    names = list(dict.fromkeys(runs["name"]))
    baselines = list(dict.fromkeys(points.loc[points["role"] == "baseline", "name"]))
    tasks = list(dict.fromkeys(runs["task"]))
    figure, panels = row_of_panels(len(tasks), height=3.1)
    for task, axes in zip(tasks, panels, strict=True):
        for index, name in enumerate(names):
            curve = runs[(runs["task"] == task) & (runs["name"] == name)].sort_values("step")
            if len(curve):
                bars = [(curve["accuracy"] - curve["low"]).clip(lower=0)]
                bars += [(curve["high"] - curve["accuracy"]).clip(lower=0)]
                style = line_style(index) | {"capsize": 2.5, "elinewidth": 1.0}
                axes.errorbar(curve["step"], curve["accuracy"], yerr=bars, label=plain(name), **style)
        for index, name in enumerate(baselines, start=len(names)):
            final = points[(points["role"] == "baseline") & (points["task"] == task) & (points["name"] == name)]
            for point in final.to_dict("records"):
                colour = line_style(index)["color"]
                style = {"color": colour, "linewidth": 1.4, "linestyle": (0, (4, 3)), "zorder": 1}
                axes.axhline(point["accuracy"], label=f"{plain(name)}, final", **style)
                axes.axhspan(point["low"], point["high"], color=colour, alpha=0.1, linewidth=0, zorder=0)
        axes.set_title(plain(task), loc="left", fontsize=10)
        over_training_axes(axes, "step")
        axes.set_xlim(left=-0.02 * axes.get_xlim()[1])
        within_unit(axes)
    panels[0].set_ylabel("accuracy")
    found = {label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    labels = [*map(plain, names), *(f"{plain(name)}, final" for name in baselines)]
    labels = [label for label in labels if label in found]
    figure.legend([found[label] for label in labels], labels, loc="outside upper center", ncols=4, frameon=False)
    return figure


def _table(points: pd.DataFrame) -> Table:
    rows = []
    ordered = points.sort_values(["task", "role", "name", "step"], ascending=[True, False, True, True])
    for point in ordered.to_dict("records"):
        accuracy, low, high = (f"{100 * point[name]:.1f}" for name in ("accuracy", "low", "high"))
        step = NONE if point["step"] < 0 else f"{int(point['step']):,}"
        problems = NONE if pd.isna(point["problems"]) else f"{int(point['problems']):,}"
        what = point["name"] + (" (baseline)" if point["role"] == "baseline" else "")
        rows.append((point["task"], what, step, f"{accuracy} [{low}, {high}]", str(point["evaluations"]), problems))
    header = ("task", "run", "step", "accuracy, %", "evaluations", "problems")
    return Table("accuracy", "Accuracy over training", _NOTE, header, tuple(rows), 2)
