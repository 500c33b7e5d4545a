"""The printed figures of an analysis in the plane: heat maps of layers and modules, trajectories, and embeddings."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from effopd.report.analysis.records import AnalysisRecords, last_checkpoints
from effopd.report.analysis.series import cosine_edges, histogram, layer_by_module
from effopd.report.drawing import line_style, plain, row_of_panels, tidy, with_legend

_COLOUR_MAP = colormaps["viridis"].with_extremes(bad="#d8d8d8")
_TRAJECTORIES_PER_RUN = 4
_MAX_TOKENS = 400


def draw_effective_rank(records: AnalysisRecords) -> Figure | None:
    """Draw the effective rank by layer and module at each run's last checkpoint."""
    last = last_checkpoints(records.matrices)
    maps = {run: layer_by_module(last[last["run"] == run], "effective_rank") for run in records.runs}
    return _heat_maps(maps, "effective rank, last checkpoint", zero=True)


def draw_first_vector(records: AnalysisRecords) -> Figure | None:
    """Draw |cos u_1| between each run's first checkpoint and its last one, by layer and module."""
    rows = records.matrices
    many = rows.groupby("run")["checkpoint"].transform("nunique") > 1
    first = rows[many & (rows["checkpoint"] == rows.groupby("run")["checkpoint"].transform("min"))]
    maps = {run: layer_by_module(first[first["run"] == run], "first_vector_cosine") for run in records.runs}
    return _heat_maps(maps, r"$|\cos u_1|$, first checkpoint against last", limits=(0.0, 1.0))


def draw_trajectories(records: AnalysisRecords) -> Figure | None:
    """Draw how the first left singular vector moves, in the plane of its first two principal components."""
    rows = records.trajectories.dropna(subset=["pc1", "pc2"])
    rows = rows[rows.groupby(["run", "parameter"])["checkpoint"].transform("size") > 2]
    if rows.empty:
        return None
    names = _spread_out(rows)
    runs = [run for run in records.runs if (rows["run"] == run).any()]
    figure = Figure(figsize=(2.9 * max(len(names), 2) + 0.8, 2.7 * len(runs) + 0.5), layout="constrained")
    grid = figure.subplots(len(runs), len(names), squeeze=False)
    norm = Normalize(rows[records.x].min(), rows[records.x].max())
    shares = records.updates.groupby(["run", "parameter"])["trajectory_evr"].first()
    for run, panels in zip(runs, grid, strict=True):
        for name, axes in zip(names, panels, strict=True):
            points = rows[(rows["run"] == run) & (rows["parameter"] == name)]
            if points.empty:  # the update is zero, or the run does not have this parameter
                axes.set_title(_short(name) + "\nno trajectory", loc="left", fontsize=8)
                axes.set(xticks=[], yticks=[])
                axes.spines[:].set_visible(False)
                continue
            _draw_trajectory(axes, points, norm, records.x)
            share, still = shares.get((run, name)), not points[["pc1", "pc2"]].to_numpy().any()
            note = f"\nEVR {share:.0%}" if pd.notna(share) else "\ndoes not move" if still else ""
            axes.set_title(_short(name) + note, loc="left", fontsize=8)
        panels[0].set_ylabel(plain(run), fontsize=10)
    label = "optimizer step" if records.x == "step" else "checkpoint"
    figure.colorbar(
        ScalarMappable(norm, _COLOUR_MAP), ax=grid, label=label, aspect=30, shrink=0.8, ticks=MaxNLocator(integer=True)
    )
    return with_legend(figure, next(axes for axes in grid.flat if axes.lines))


def draw_embedding_shift(records: AnalysisRecords) -> Figure | None:
    """Draw a histogram of the tokens' cosines to the base, and in a panel for each run where some tokens went.

    If an output head was analysed too, only the first table, that of the input embeddings, is drawn.
    """
    tokens = records.embedding_tokens
    tokens = tokens[tokens["parameter"] == (tokens["parameter"].iloc[0] if len(tokens) else None)]
    runs = [run for run in records.runs if (tokens["run"] == run).any()]
    if not runs:
        return None
    figure, panels = row_of_panels(1 + len(runs), width=4)
    edges = cosine_edges(tokens["cosine"])
    for run in runs:
        shares = histogram(tokens.loc[tokens["run"] == run, "cosine"], edges)
        style = line_style(records.runs.index(run))
        panels[0].stairs(shares, edges, color=style["color"], fill=True, alpha=0.15)
        panels[0].stairs(
            shares, edges, color=style["color"], linewidth=1.6, linestyle=style["linestyle"], label=plain(run)
        )
    panels[0].set(xlabel="cosine to the base", ylabel="share of the tokens analysed")
    panels[0].set_title(plain(tokens["parameter"].iloc[0]), loc="left", fontsize=10)
    panels[0].legend(frameon=False, loc="upper left")
    tidy(panels[0])
    for run, axes in zip(runs, panels[1:], strict=True):
        _draw_shift(axes, tokens[tokens["run"] == run], line_style(records.runs.index(run))["color"])
        axes.set_title(plain(run), loc="left", fontsize=10)
    return figure


def _heat_maps(
    maps: Mapping[str, pd.DataFrame], label: str, *, limits: tuple[float, float] | None = None, zero: bool = False
) -> Figure | None:
    maps = {run: table for run, table in maps.items() if not table.empty}
    if not maps:
        return None
    modules = list(dict.fromkeys(module for table in maps.values() for module in table.index))
    layers = sorted({layer for table in maps.values() for layer in table.columns})
    low, high = limits or (
        0.0 if zero else min(np.nanmin(table) for table in maps.values()),
        max(np.nanmax(table) for table in maps.values()) or 1.0,
    )
    width = min(max(3.2 + 0.19 * len(layers), 5.5), 13)
    height = max(0.4 + (0.75 + 0.27 * len(modules)) * len(maps), 3.4)  # so that the label of the colours has room
    figure = Figure(figsize=(width, height), layout="constrained")
    panels = figure.subplots(len(maps), 1, squeeze=False, sharex=True).ravel()
    for axes, (run, table) in zip(panels, maps.items(), strict=True):
        values = table.reindex(index=modules, columns=layers).to_numpy(dtype=float)
        extent = (layers[0] - 0.5, layers[-1] + 0.5, len(modules) - 0.5, -0.5)
        dense = np.full((len(modules), int(layers[-1] - layers[0]) + 1), np.nan)
        dense[:, [int(layer - layers[0]) for layer in layers]] = values
        axes.imshow(dense, cmap=_COLOUR_MAP, vmin=low, vmax=high, aspect="auto", extent=extent, interpolation="none")
        axes.set_yticks(range(len(modules)), [plain(module) for module in modules], fontsize=8)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=min(len(layers), 20), min_n_ticks=1))
        axes.set_title(plain(run), loc="left", fontsize=10)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
    panels[-1].set_xlabel("layer")
    mappable = ScalarMappable(Normalize(low, high), _COLOUR_MAP)
    figure.colorbar(mappable, ax=list(panels), label=label, aspect=24, pad=0.02)
    return figure


def _draw_trajectory(axes: Axes, rows: pd.DataFrame, norm: Normalize, x: str) -> None:
    points = rows.sort_values("checkpoint")
    axes.plot(points["pc1"], points["pc2"], color="#9aa0a6", linewidth=1, zorder=1)
    axes.scatter(points["pc1"], points["pc2"], c=points[x], cmap=_COLOUR_MAP, norm=norm, s=26, zorder=2)
    for index, marker, label in ((0, "s", "first checkpoint"), (-1, "*", "last checkpoint")):
        style: dict[str, Any] = {
            "markersize": 10,
            "markerfacecolor": "none",
            "markeredgecolor": "black",
            "linestyle": "none",
        }
        axes.plot(*points[["pc1", "pc2"]].iloc[[index]].to_numpy().T, marker=marker, label=label, zorder=3, **style)
    axes.set_aspect("equal", adjustable="datalim")
    axes.margins(0.15)
    axes.tick_params(labelsize=7)
    tidy(axes)


def _draw_shift(axes: Axes, rows: pd.DataFrame, colour: str) -> None:
    rows = rows.dropna(subset=["base_x", "base_y", "trained_x", "trained_y"])
    if len(rows):
        rows = rows.iloc[np.unique(np.linspace(0, len(rows) - 1, min(len(rows), _MAX_TOKENS)).astype(int))]
    base, trained = rows[["base_x", "base_y"]].to_numpy(), rows[["trained_x", "trained_y"]].to_numpy()
    axes.add_collection(
        LineCollection(list(np.stack([base, trained], axis=1)), colors=colour, linewidths=0.7, alpha=0.6)
    )
    axes.scatter(
        base[:, 0], base[:, 1], s=7, facecolor="white", edgecolor="#5c6670", linewidth=0.6, label="base", zorder=2
    )
    axes.scatter(trained[:, 0], trained[:, 1], s=7, color=colour, label="trained", zorder=3)
    axes.autoscale_view()
    axes.set(xticks=[], yticks=[])
    axes.set_aspect("equal", adjustable="datalim")
    axes.spines[:].set_visible(False)
    if len(rows):
        axes.legend(frameon=False, fontsize=7, loc="upper right", markerscale=1.6)


def _spread_out(rows: pd.DataFrame) -> list[str]:
    """Choose a few parameters, spread from the first to the last; if possible, such as have a t-SNE picture."""
    pictured = list(dict.fromkeys(rows.loc[rows["tsne1"].notna(), "parameter"]))
    names = pictured if len(pictured) >= _TRAJECTORIES_PER_RUN else list(dict.fromkeys(rows["parameter"]))
    places = np.unique(np.linspace(0, len(names) - 1, _TRAJECTORIES_PER_RUN).round().astype(int))
    return [names[place] for place in places]


def _short(name: str) -> str:
    """Shorten a parameter's name to its parts from the number of the layer on."""
    parts = name.removesuffix(".weight").split(".")
    start = next((i for i, part in enumerate(parts) if part.isdigit()), max(len(parts) - 2, 0))
    return plain(".".join(parts[start:]))
