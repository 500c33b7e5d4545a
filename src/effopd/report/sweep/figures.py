"""Printed figures of a sweep. Every point has its error bar, and every reference line its band."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from effopd.report.drawing import COLOURS, line_style, plain, row_of_panels, tidy, with_legend

FIGURES = "figures"
_NORM = r"$\Vert\Delta W\Vert_F$"
_MODULES = {"mlp": "MLP", "attention": "attention", "both": "attention and MLP"}
_KL = "KL to the teacher, nats / token"


def draw_sweep(entry: dict[str, Any], points: pd.DataFrame, runs: Sequence[str]) -> Figure:
    """The figure of one sweep on one task.

    Args:
        entry: The sweep as `sweep.json` has it.
        points: Its points, from `effopd.report.sweep.points.sweep_points`.
        runs: Names of all runs: a run has the same colour in every figure.
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
    labels: str | None = "{run}",
    x_bars: bool = False,
    **style: Any,
) -> None:
    """A curve for each run, over `x`, with error bars.

    Args:
        axes: Where.
        points: Of one kind.
        runs: All runs.
        y: `accuracy` or `kl`.
        labels: For the legend, with `{run}`; None for none.
        x_bars: Whether to draw the range of `x` over training seeds.
        style: Of the lines, over that of each run.
    """
    for index, run in enumerate(runs):
        of = points[(points["run"] == run) & points[y].notna()].sort_values(["x", "value"])
        if of.empty:
            continue
        x_error = (of["x"] - of["x_low"], of["x_high"] - of["x"]) if x_bars else None
        label = None if labels is None else labels.format(run=plain(run))
        axes.errorbar(
            of["x"],
            of[y],
            yerr=_bars(of, y),
            xerr=x_error,
            label=label,
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
        axes.set_xlim(left=-0.02 * axes.get_xlim()[1])
        tidy(axes)
    panels[0].set_ylabel("accuracy")
    return with_legend(figure, panels[0])


def _draw_embeddings(entry: dict[str, Any], points: pd.DataFrame, runs: list[str]) -> Figure:
    figure, (axes,) = row_of_panels(1, width=5.4)
    kinds = {"base": "base", "replace-embeddings": "trained, with the\nbase's embeddings", "trained": "trained"}
    shown = [run for run in runs if (points["run"] == run).any()]
    for index, run in enumerate(runs):
        of = points[points["run"] == run].set_index("kind")
        of = of.loc[[kind for kind in kinds if kind in of.index]]
        if of.empty:
            continue
        shift = 0.12 * (shown.index(run) - (len(shown) - 1) / 2)
        places = [list(kinds).index(kind) + shift for kind in of.index]
        style = line_style(index) | {"linestyle": "none"}
        axes.errorbar(places, of["accuracy"], yerr=_bars(of, "accuracy"), label=plain(run), capsize=2.5, **style)
    axes.set_xticks(range(len(kinds)), list(kinds.values()))
    axes.set_xlim(-0.5, len(kinds) - 0.5)
    axes.set_ylabel("accuracy")
    tidy(axes)
    return with_legend(figure, axes)


def _draw_windows(entry: dict[str, Any], points: pd.DataFrame, runs: list[str]) -> Figure:
    figure, panels = row_of_panels(len(entry["modules"]), sharey=True, width=4.9)
    for axes, module in zip(panels, entry["modules"], strict=True):
        of = points[points["kind"] == module]
        draw_references(axes, points, runs)
        draw_curves(axes, of, runs)
        _draw_layer_norms(axes, of, runs, top=1.05 * points["layer_norm"].max() or 1.0, last=axes is panels[-1])
        axes.set_title(_MODULES[module], loc="left", fontsize=10)
        axes.set_xlabel("centre of the window, layer")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
        tidy(axes)
    panels[0].set_ylabel("accuracy")
    return with_legend(figure, panels[0])


def _draw_layer_norms(axes: Axes, points: pd.DataFrame, runs: list[str], *, top: float, last: bool) -> None:
    """Bars behind the curves, on an axis of their own with the same end in every panel."""
    behind = axes.twinx()
    shown = [run for run in runs if (points["run"] == run).any()]
    width = 0.8 / max(len(shown), 1)
    for place, run in enumerate(shown):
        of = points[points["run"] == run]
        shift = width * (place - (len(shown) - 1) / 2)
        colour = line_style(runs.index(run))["color"]
        behind.bar(of["x"] + shift, of["layer_norm"], width=width, color=colour, alpha=0.18, linewidth=0)
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
        of = points[points["kind"] == kind]
        draw_references(axes, points, runs)
        draw_curves(axes, of, runs)
        axes.set_title(title, loc="left", fontsize=10)
        if kind == "top":  # the first few matter there, and all but the first few in the other
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("k, % of the singular components")
        tidy(axes)
    panels[0].set_ylabel("accuracy")
    return with_legend(figure, panels[0])


def draw_references(axes: Axes, points: pd.DataFrame, runs: Sequence[str]) -> None:
    """The base, and each run's final model, as lines with their error bars as bands."""
    base = points[points["kind"] == "base"].head(1)  # the same model for every run
    lines: list[tuple[pd.DataFrame, str, str | None]] = [(base, COLOURS[0], "base")]
    for index, run in enumerate(runs):
        of = points[(points["kind"] == "trained") & (points["run"] == run)]
        lines.append((of, line_style(index)["color"], None))
    for of, colour, label in lines:
        for point in of.to_dict("records"):
            axes.axhline(point["accuracy"], color=colour, linewidth=1.0, linestyle=(0, (4, 3)), label=label, zorder=1)
            axes.axhspan(point["accuracy_low"], point["accuracy_high"], color=colour, alpha=0.10, linewidth=0, zorder=0)


def _draw_norm_matching(entry: dict[str, Any], points: pd.DataFrame, runs: list[str]) -> Figure:
    quantities = ["accuracy", "kl"] if points["kl"].notna().any() else ["accuracy"]
    figure = Figure(figsize=(8.8, 0.5 + 2.9 * len(quantities)), layout="constrained")
    grid = figure.subplots(len(quantities), 2, sharey="row", squeeze=False)
    for y, (over_training, over_beta) in zip(quantities, grid, strict=True):
        kinds = {kind: points[points["kind"] == kind] for kind in ("checkpoint", "norm-match", "beta")}
        style: dict[str, Any] = {"linestyle": "--", "markerfacecolor": "white", "linewidth": 1.2}
        draw_curves(over_training, kinds["norm-match"], runs, y=y, labels="{run}, final norm")
        draw_curves(over_training, kinds["checkpoint"], runs, y=y, labels="{run}, as trained", **style)
        draw_curves(over_beta, kinds["beta"], runs, y=y)
        over_training.set_ylabel({"accuracy": "accuracy", "kl": _KL}[y])
        over_training.set_xlabel("optimizer step")
        over_beta.set_xlabel(r"$\beta$ (0: as trained, 1: final norm)")
        for axes in (over_training, over_beta):
            tidy(axes)
        if y == "kl" and (points["kl"] > 0).any():  # spans orders of magnitude; bars that reach 0 are cut below
            over_training.set_yscale("log", nonpositive="clip")
            over_training.set_ylim(bottom=points["kl"][points["kl"] > 0].min() / 2)
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
        tidy(axes)
    panels[0].set_ylabel("accuracy")
    return with_legend(figure, panels[0])
