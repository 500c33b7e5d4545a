"""The printed figure of the embedding shift: cosines to the base, and where tokens went in one plane of all models."""

import math
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from effopd.report.analysis.records import AnalysisRecords
from effopd.report.analysis.series import cosine_edges, histogram, magnification
from effopd.report.drawing import COLOURS, line_style, plain, row_of_panels, tidy

_MAX_TOKENS = 400
_PLANES = {"": "principal components", "tsne_": "t-SNE"}


def draw_embedding_shift(records: AnalysisRecords) -> Figure | None:
    """Draw a histogram of the tokens' cosines to the base, and where some tokens went, by PCA and by t-SNE.

    The base and all runs share one plane. If an output head was analysed too, only the first table, that of the input
    embeddings, is drawn.
    """
    tokens = records.embedding_tokens
    tokens = tokens[tokens["parameter"] == (tokens["parameter"].iloc[0] if len(tokens) else None)]
    runs = [run for run in records.runs if (tokens["run"] == run).any()]
    if not runs:
        return None
    pictured = tokens.dropna(subset=["base_x", "trained_x"])
    planes = {name: title for name, title in _PLANES.items() if pictured[f"{name}base_x"].notna().any()}
    figure, (cosines, *panels) = row_of_panels(1 + len(planes), width=4.2, height=3.9)
    _draw_cosines(cosines, tokens, runs, records.runs)
    for axes, (name, title) in zip(panels, planes.items(), strict=True):
        factor = 1 if name else magnification(pictured)
        _draw_shifts(axes, [pictured[pictured["run"] == run] for run in runs], name, records.runs, factor)
        axes.set_title(title + (f", shifts drawn {factor:,}-fold" if factor > 1 else ""), loc="left", fontsize=10)
    handles, labels = (panels or [cosines])[-1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", frameon=False)
    return figure


def _draw_cosines(axes: Axes, tokens: pd.DataFrame, runs: list[str], all_runs: tuple[str, ...]) -> None:
    edges = cosine_edges(tokens["cosine"])
    for run in runs:
        style = line_style(all_runs.index(run))
        shares = histogram(tokens.loc[tokens["run"] == run, "cosine"], edges)
        axes.stairs(shares, edges, color=style["color"], fill=True, alpha=0.15)
        axes.stairs(shares, edges, color=style["color"], linewidth=1.6, linestyle=style["linestyle"], label=plain(run))
    count = len(tokens) // len(runs)  # all runs have the same tokens
    axes.set(xlabel="cosine to the base", ylabel=f"share of the {count:,} tokens", xlim=(edges[0], 1.0))
    axes.set_title(plain(tokens["parameter"].iloc[0]), loc="left", fontsize=10)
    decimals = 1 + _decimals(edges[0])
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.{decimals}f}"))
    tidy(axes)


def _draw_shifts(axes: Axes, groups: list[pd.DataFrame], plane: str, all_runs: tuple[str, ...], factor: int) -> None:
    """Draw the base as rings, and runs as smaller and smaller dots, so that those in one place can be seen."""
    small = min(1.0, (40 / max(len(groups[0]), 1)) ** 0.5)
    for place, rows in enumerate(groups):
        if len(rows):
            rows = rows.iloc[np.unique(np.linspace(0, len(rows) - 1, min(len(rows), _MAX_TOKENS)).astype(int))]
        base = rows[[f"{plane}base_x", f"{plane}base_y"]].to_numpy()
        trained = base + factor * (rows[[f"{plane}trained_x", f"{plane}trained_y"]].to_numpy() - base)
        if place == 0:  # the base is in the same place for every run
            style: dict[str, Any] = {"facecolor": "none", "edgecolor": COLOURS[0], "linewidth": 0.7}
            axes.scatter(base[:, 0], base[:, 1], s=34 * small, label="base", **style)
        run = str(rows["run"].iloc[0]) if len(rows) else ""
        colour = line_style(all_runs.index(run))["color"] if run else COLOURS[0]
        shifts = LineCollection(list(np.stack([base, trained], axis=1)), colors=colour, linewidths=0.7, alpha=0.6)
        axes.add_collection(shifts)
        size = small * 20 / 1.8**place
        axes.scatter(
            trained[:, 0], trained[:, 1], s=size, color=colour, linewidth=0, label=_label(run, rows), zorder=2 + place
        )
    axes.autoscale_view()
    axes.set(xticks=[], yticks=[])
    axes.set_aspect("equal", adjustable="datalim")
    axes.spines[:].set_visible(False)


def _label(run: str, tokens: pd.DataFrame) -> str:
    """Write the numbers of a run, which say how far its tokens moved where the picture cannot."""
    cosine, shift = tokens["cosine"].mean(), tokens["relative_shift"].median()
    shown = f"{cosine:.{_decimals(cosine)}f}"
    return f"{plain(run)}: mean cosine {shown}, median shift {100 * shift:.2g} % of the embedding's length"


def _decimals(cosine: float) -> int:
    """Count the decimals that show two digits of a cosine's distance from 1, from 3 to 12."""
    distance = abs(1 - cosine)
    return min(max(1 - math.floor(math.log10(distance)), 3), 12) if distance > 0 else 3
