"""The figures of a linearisation."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from effopd.report.drawing import COLOURS, line_style, plain, row_of_panels, tidy, with_legend

Results = Mapping[str, Any]
RELIABLE = 0.01
"""Relative residual up to which an eigenvalue is drawn as found."""


def draw_spectrum(results: Results) -> Figure:
    """Draw the eigenvalues of A with their residuals, and the share of |b|^2 in each eigenvector."""
    values, residuals = np.array(results["eigenvalues"]), np.array(results["eigenvalue_residuals"])
    ranks = np.arange(1, len(values) + 1)
    positive = values > 1e-6 * values[0]
    found = positive & (residuals <= RELIABLE * np.abs(values))
    figure, (left, right) = row_of_panels(2, width=4.2)
    error = np.minimum(residuals, 0.9 * np.abs(values))
    style: dict[str, Any] = {"color": COLOURS[1], "marker": "o", "markersize": 4, "linestyle": "none"}
    for chosen, face, label in (
        (found, COLOURS[1], "residual up to 1 %"),
        (positive & ~found, "white", "larger residual, drawn as error bar"),
    ):
        if chosen.any():
            places = (ranks[chosen], values[chosen], error[chosen])
            left.errorbar(*places, **style, markerfacecolor=face, elinewidth=0.8, label=label)
    left.set(yscale="log", xlabel="eigenvector", ylabel="eigenvalue of A")
    left.legend(frameon=False, fontsize="small", loc="lower left")
    shares = np.array([np.nan if share is None else share for share in results["driving_share"]])
    right.bar(ranks, np.diff(shares, prepend=0.0), color=COLOURS[2], label="in one eigenvector")
    right.plot(ranks, shares, color=COLOURS[1], linewidth=1.8, label="in the first ones together")
    if (unbiased := results.get("unbiased")) and unbiased["squared_norm"] > 0:
        without = np.array(unbiased["driving_share"])
        error = np.array([np.nan if each is None else each for each in unbiased["driving_share_error"]])
        first = ranks[: len(without)]
        right.plot(first, without, color=COLOURS[3], linewidth=1.8, linestyle="--", label="the same, without noise")
        right.fill_between(first, without - error, without + error, color=COLOURS[3], alpha=0.25, linewidth=0)
    right.set(xlabel="eigenvector", ylabel="share of $|b|^2$", ylim=(0, 1.02))
    right.yaxis.set_major_formatter(PercentFormatter(1.0))
    right.legend(frameon=False, fontsize="small", loc="lower center", bbox_to_anchor=(0.5, 1.0))
    for axes in (left, right):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        tidy(axes)
    return figure


def draw_path(results: Results) -> Figure:
    """Draw gradient descent as the quadratic model predicts it and as it is: norm, cosine, loss and tail."""
    path = results["path"]
    rows = path["rows"]
    steps = [row["step"] for row in rows]
    real, predicted = line_style(0), line_style(1)
    bound: dict[str, Any] = {"color": COLOURS[0], "linestyle": "--", "linewidth": 4, "alpha": 0.5}
    figure, panels = row_of_panels(4, width=4.2)
    _lines(panels[0], steps, rows, {"real_norm": ("real", real), "predicted_norm": ("predicted", predicted)})
    _lines(panels[1], steps, rows, {"cosine": ("", real)})
    _lines(panels[2], steps, rows, {"loss": ("", real), "loss_at_predicted": ("", predicted)})
    tails = {"tail_bound": ("", bound), "tail": ("", real), "predicted_tail": ("", predicted)}
    _lines(panels[3], steps, rows, tails)
    panels[0].plot([], [], **bound, label="bound on the predicted tail")
    labels = ("norm of the displacement", "cosine of real and predicted", "loss, nats per token")
    for axes, label in zip(panels, (*labels, f"norm outside {path['tail_rank']} eigenvectors"), strict=True):
        axes.set(xscale="log", xlabel="gradient steps", ylabel=label)
        axes.set_xticks(steps, [str(step) for step in steps])
        axes.minorticks_off()
        tidy(axes)
    panels[1].axhline(1.0, color=COLOURS[0], linewidth=0.8)
    panels[3].set_yscale("log")
    return with_legend(figure, panels[0])


def draw_modules(results: Results) -> Figure:
    """Draw how |b|^2 spreads over kinds of module and over layers."""
    figure, (left, right) = row_of_panels(2, width=4.2)
    total = results["driving_norm"] ** 2 or 1.0
    for axes, key, label in (
        (left, "driving_norm_by_kind", "kind of module"),
        (right, "driving_norm_by_layer", "layer"),
    ):
        norms = results[key]
        places = range(len(norms))
        axes.bar(places, [norm**2 / total for norm in norms.values()], color=COLOURS[1])
        names = [name.replace("_", " ") for name in norms]
        every = max(1, len(names) // 12)
        axes.set_xticks(list(places)[::every], names[::every], rotation=30 if key.endswith("kind") else 0)
        axes.set(xlabel=label, ylabel="share of $|b|^2$")
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        tidy(axes)
    return figure


def draw_lines(results: Results) -> Figure:
    """Draw the true loss and the quadratic model along the gradient, the predicted path and every update."""
    lines = results["lines"]
    figure, panels = row_of_panels(len(lines), width=4.2)
    for axes, (name, line) in zip(panels, lines.items(), strict=True):
        true = np.array(line["true"], dtype=np.float64)  # None becomes NaN
        axes.plot(line["scales"], true, **line_style(0), label="true loss")
        axes.plot(line["scales"], line["quadratic"], **line_style(1), label="quadratic model")
        top = 1.15 * max(true[0], min(np.nanmax(true), 2 * true[0])) or 1.0  # 0 where student and teacher agree
        seen = [scale for scale, loss in zip(line["scales"], true, strict=True) if loss <= top]
        axes.set_xlim(0, max(2.0, 1.1 * max(seen)))
        axes.set_ylim(min(0.0, 1.1 * min(np.nanmin(true), *line["quadratic"][:6])), top)
        axes.set(xlabel=f"multiple of {plain(line_name(name))}", ylabel="loss, nats per token")
        tidy(axes)
    return with_legend(figure, panels[0])


def line_name(name: str) -> str:
    """Say what the direction is that a line goes along."""
    kind, _, run = name.partition(":")
    return {"gradient": "best gradient step", "path": "predicted path's end"}.get(kind, f"update {run}")


def _lines(axes: Axes, steps: list[int], rows: list[Results], columns: Mapping[str, tuple[str, Any]]) -> None:
    for column, (label, style) in columns.items():
        axes.plot(steps, np.array([row[column] for row in rows], dtype=np.float64), **style, label=label or None)
