"""The printed figures of a sweep. Every point has its error bar, and every reference line has its band."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from effopd.report.drawing import COLOURS, line_style, plain, row_of_panels, tidy, with_legend, within_unit
from effopd.report.sweep.precision import note_errors

_NORM = r"$\Vert\Delta W\Vert_F$"
_MODULES = {"mlp": "MLP", "attention": "attention", "both": "attention and MLP"}
_KL = "KL to the teacher, nats / token"


def draw_sweep(entry: dict[str, Any], points: pd.DataFrame, runs: Sequence[str]) -> Figure:
    """Draw the figure of one sweep on one task.

    Args:
        entry: The sweep's entry of the specification, as `sweep.json` has it.
        points: Points of this sweep and task, from `sweep_points`.
        runs: Names of all runs, which decide their colours: a run has the same colour in every figure.
    """
    draw = {
        "update_norm": _draw_update_norm,
        "embedding_replacement": _draw_embeddings,
        "sliding_window": _draw_windows,
        "top_bottom": _draw_top_bottom,
        "norm_matching": _draw_norm_matching,
        "intervention": _draw_intervention,
    }[entry["preset"]]
    figure: Figure = draw(entry, points, list(runs))
    return figure


def draw_curves(
    axes: Axes,
    points: pd.DataFrame,
    runs: Sequence[str],
    *,
    y: str = "accuracy",
    labels: str = "{run}",
    x_bars: bool = False,
    positive: bool = False,
    **style: Any,
) -> None:
    """Draw a curve with error bars for each run, over the column `x`.

    Args:
        axes: Panel to draw in.
        points: Points of one kind.
        runs: Names of all runs.
        y: Column to draw, `accuracy` or `kl`.
        labels: Label for the legend, in which `{run}` stands for the name of the run.
        x_bars: Whether to draw the range of `x` over training seeds.
        positive: Whether the axis is logarithmic. A curve then ends where it is 0, which has no place on the axis.
        **style: Style of the lines, which goes before that of each run.
    """
    for index, run in enumerate(runs):
        curve = points[(points["run"] == run) & points[y].notna()].sort_values(["x", "value"])
        if curve.empty:
            continue
        axes.errorbar(
            curve["x"],
            curve[y].where(curve[y] > 0) if positive else curve[y],
            yerr=_bars(curve, y),
            xerr=(curve["x"] - curve["x_low"], curve["x_high"] - curve["x"]) if x_bars else None,
            label=labels.format(run=plain(run)),
            capsize=2.5,
            elinewidth=1.0,
            **(line_style(index) | style),
        )


def _bars(points: pd.DataFrame, y: str) -> list[Any]:
    return [(points[y] - points[f"{y}_low"]).clip(lower=0), (points[f"{y}_high"] - points[y]).clip(lower=0)]


def _draw_update_norm(entry: dict[str, Any], points: pd.DataFrame, runs: list[str]) -> Figure:
    figure, panels = row_of_panels(2, sharey=True, width=4.4)
    titles = {"scale": "final update, scaled", "checkpoint": "over training"}
    for axes, (kind, title) in zip(panels, titles.items(), strict=True):
        draw_curves(axes, points[points["kind"] == kind], runs, x_bars=True)
        axes.set_title(title, loc="left", fontsize=10)
        axes.set_xlabel(_NORM)
        note_errors(axes, points[points["kind"] == kind])
        axes.set_xlim(left=-0.02 * axes.get_xlim()[1])
        tidy(axes)
    within_unit(panels[0])
    panels[0].set_ylabel("accuracy")
    return with_legend(figure, panels[0])


def _draw_embeddings(entry: dict[str, Any], points: pd.DataFrame, runs: list[str]) -> Figure:
    figure, (axes,) = row_of_panels(1, width=5.4)
    kinds = {"base": "base", "replace-embeddings": "trained, with the\nbase's embeddings", "trained": "trained"}
    shown = [run for run in runs if (points["run"] == run).any()]
    for index, run in enumerate(runs):
        models = points[points["run"] == run].set_index("kind")
        models = models.loc[[kind for kind in kinds if kind in models.index]]
        if models.empty:
            continue
        shift = 0.12 * (shown.index(run) - (len(shown) - 1) / 2)
        places = [list(kinds).index(kind) + shift for kind in models.index]
        style = line_style(index) | {"linestyle": "none"}
        bars = _bars(models, "accuracy")
        axes.errorbar(places, models["accuracy"], yerr=bars, label=plain(run), capsize=2.5, **style)
    axes.set_xticks(range(len(kinds)), list(kinds.values()))
    axes.set_xlim(-0.5, len(kinds) - 0.5)
    note_errors(axes, points)
    within_unit(axes)
    axes.set_ylabel("accuracy")
    tidy(axes)
    return with_legend(figure, axes)


def _draw_windows(entry: dict[str, Any], points: pd.DataFrame, runs: list[str]) -> Figure:
    figure, panels = row_of_panels(len(entry["modules"]), sharey=True, width=4.9)
    for axes, module in zip(panels, entry["modules"], strict=True):
        windows = points[points["kind"] == module]
        draw_references(axes, points, runs)
        draw_curves(axes, windows, runs)
        _draw_layer_norms(
            axes, windows, runs, top=1.05 * points["layer_norm"].fillna(0).max() or 1.0, last=axes is panels[-1]
        )
        axes.set_title(_MODULES[module], loc="left", fontsize=10)
        axes.set_xlabel("centre of the window, layer")
        note_errors(axes, windows)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
        tidy(axes)
    within_unit(panels[0])
    panels[0].set_ylabel("accuracy")
    return with_legend(figure, panels[0])


def _draw_layer_norms(axes: Axes, points: pd.DataFrame, runs: list[str], *, top: float, last: bool) -> None:
    """Draw bars behind the curves, on an axis of their own that ends at the same value in every panel."""
    behind = axes.twinx()
    shown = [run for run in runs if (points["run"] == run).any()]
    width = 0.8 / max(len(shown), 1)
    for place, run in enumerate(shown):
        windows = points[points["run"] == run]
        shift = width * (place - (len(shown) - 1) / 2)
        colour = line_style(runs.index(run))["color"]
        behind.bar(windows["x"] + shift, windows["layer_norm"], width=width, color=colour, alpha=0.18, linewidth=0)
    axes.set_zorder(behind.get_zorder() + 1)
    axes.patch.set_visible(False)
    behind.set_ylim(0, top)
    behind.tick_params(axis="y", labelright=last)
    behind.spines["top"].set_visible(False)
    behind.tick_params(axis="y", colors=COLOURS[0])
    if last:
        behind.set_ylabel(f"{_NORM} of the layer", color=COLOURS[0])


def _draw_top_bottom(entry: dict[str, Any], points: pd.DataFrame, runs: list[str]) -> Figure:
    figure, panels = row_of_panels(2, sharey=True, width=4.4)
    titles = {"top": "first k %, at equal norm", "bottom": "last k %, not rescaled"}
    for axes, (kind, title) in zip(panels, titles.items(), strict=True):
        draw_references(axes, points, runs)
        draw_curves(axes, points[points["kind"] == kind], runs)
        axes.set_title(title, loc="left", fontsize=10)
        if kind == "top":  # there the first few components matter, and in the other panel all but the first few
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("k, % of the singular components")
        note_errors(axes, points[points["kind"] == kind])
        tidy(axes)
    within_unit(panels[0])
    panels[0].set_ylabel("accuracy")
    return with_legend(figure, panels[0])


def draw_references(axes: Axes, points: pd.DataFrame, runs: Sequence[str]) -> None:
    """Draw the base and each run's final model as horizontal lines, with their error bars as bands."""
    base = points[points["kind"] == "base"].head(1)  # the base is the same model for every run
    lines: list[tuple[pd.DataFrame, str, str | None]] = [(base, COLOURS[0], "base")]
    for index, run in enumerate(runs):
        final = points[(points["kind"] == "trained") & (points["run"] == run)]
        lines.append((final, line_style(index)["color"], None))
    for models, colour, label in lines:
        for point in models.to_dict("records"):
            axes.axhline(point["accuracy"], color=colour, linewidth=1.0, linestyle=(0, (4, 3)), label=label, zorder=1)
            axes.axhspan(point["accuracy_low"], point["accuracy_high"], color=colour, alpha=0.10, linewidth=0, zorder=0)


def _draw_norm_matching(entry: dict[str, Any], points: pd.DataFrame, runs: list[str]) -> Figure:
    quantities = ["accuracy", "kl"] if points["kl"].notna().any() else ["accuracy"]
    figure = Figure(figsize=(8.8, 0.5 + 2.9 * len(quantities)), layout="constrained")
    grid = figure.subplots(len(quantities), 2, sharex="col", sharey="row", squeeze=False)
    for y, (over_training, over_beta) in zip(quantities, grid, strict=True):
        kinds = {kind: points[points["kind"] == kind] for kind in ("checkpoint", "norm-match", "beta")}
        style: dict[str, Any] = {"linestyle": "--", "markerfacecolor": "white", "linewidth": 1.2}
        log = y == "kl" and bool((points["kl"] > 0).any())  # it spans orders of magnitude
        draw_curves(over_training, kinds["norm-match"], runs, y=y, labels="{run}, final norm", positive=log)
        draw_curves(over_training, kinds["checkpoint"], runs, y=y, labels="{run}, as trained", positive=log, **style)
        draw_curves(over_beta, kinds["beta"], runs, y=y, positive=log)
        over_training.set_ylabel({"accuracy": "accuracy", "kl": _KL}[y])
        for axes in (over_training, over_beta):
            tidy(axes)
        if y == "accuracy":
            within_unit(over_training)
        if log:  # the panels share the axis; bars that reach 0 are cut off below
            over_training.set_yscale("log", nonpositive="clip")
            over_training.set_ylim(bottom=points["kl"][points["kl"] > 0].min() / 2)
    grid[-1][0].set_xlabel("optimizer step")
    grid[-1][1].set_xlabel(r"$\beta$ (0: as trained, 1: final norm)")
    note_errors(grid[-1][0], points[points["kind"].isin(["norm-match", "checkpoint"])])
    note_errors(grid[-1][1], points[points["kind"] == "beta"])
    grid[0][0].set_title("over training", loc="left", fontsize=10)
    grid[0][1].set_title("one early checkpoint", loc="left", fontsize=10)
    return with_legend(figure, grid[0][0])


def _draw_intervention(entry: dict[str, Any], points: pd.DataFrame, runs: list[str]) -> Figure:
    kinds = sorted(points["kind"].unique(), key=lambda kind: (len(kind), kind))
    figure, panels = row_of_panels(len(kinds), sharey=True)
    for axes, kind in zip(panels, kinds, strict=True):
        draw_curves(axes, points[points["kind"] == kind], runs)
        axes.set_title(plain(kind), loc="left", fontsize=10)
        axes.set_xlabel(plain(entry["vary"]))
        note_errors(axes, points[points["kind"] == kind])
        tidy(axes)
    within_unit(panels[0])
    panels[0].set_ylabel("accuracy")
    return with_legend(figure, panels[0])
