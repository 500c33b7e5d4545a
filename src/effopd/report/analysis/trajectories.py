"""The printed figures of how the first left singular vector of each matrix moves over the checkpoints."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from effopd.report.analysis.records import AnalysisRecords
from effopd.report.drawing import TRAINING, plain, tidy, with_legend

_COLOUR_MAP = colormaps["viridis"]
_TRAJECTORIES_PER_RUN = 4
_CELL, _PAGE, _WIDEST = 0.55, 10.0, 24.0  # inches: a picture in a grid, grids side by side, and a single grid


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
    _colour_bar(figure, list(grid.flat), norm, records.x)
    return with_legend(figure, next(axes for axes in grid.flat if axes.lines))


def draw_trajectory_grid(records: AnalysisRecords, plane: str) -> Figure | None:
    """Draw the trajectory of every matrix in a grid of layers and modules. Each picture has a scale of its own.

    Args:
        records: The analysis.
        plane: Beginning of the columns that hold the coordinates: `tsne` or `authors_tsne`.
    """
    keys = ["run", "parameter"]
    places = records.updates.drop_duplicates(keys)[[*keys, "layer", "group"]]
    rows = records.trajectories.dropna(subset=[f"{plane}1", f"{plane}2"]).merge(places, on=keys)
    rows = rows[rows["layer"].notna()]
    if rows.empty:
        return None
    runs = [run for run in records.runs if (rows["run"] == run).any()]
    modules = [group for group in dict.fromkeys(records.updates["group"]) if (rows["group"] == group).any()]
    first, last = int(rows["layer"].min()), int(rows["layer"].max())
    cell = min(_CELL, _WIDEST / (last - first + 1))
    width, height = cell * (last - first + 1) + 0.3, cell * max(len(modules), 2) + 0.4
    columns = max(min(len(runs), int(_PAGE / width)), 1)
    lines = -(-len(runs) // columns)
    figure = Figure(figsize=(max(2.6 + width * columns, 5), 0.9 + height * lines), layout="constrained")
    panels = list(figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).flat)
    for axes in panels[len(runs) :]:
        axes.set_visible(False)
    norm = Normalize(rows[records.x].min(), rows[records.x].max())
    for run, axes in zip(runs, panels, strict=False):
        paths, training = [], []
        for (_, layer, group), path in rows[rows["run"] == run].groupby(["parameter", "layer", "group"], sort=False):
            path = path.sort_values("checkpoint")
            inside = _in_cell(path[[f"{plane}1", f"{plane}2"]].to_numpy())
            paths.append([layer, modules.index(group)] + inside * [1, -1])  # the axis of modules points downwards
            training.append(path[records.x].to_numpy())
        axes.add_collection(LineCollection(paths, colors="#9aa0a6", linewidths=0.6, zorder=1))
        dots: dict[str, Any] = {"s": 26 * cell, "cmap": _COLOUR_MAP, "norm": norm, "linewidths": 0, "zorder": 2}
        x, y = np.concatenate(paths).T
        axes.scatter(x, y, c=np.concatenate(training), **dots)
        _mark_ends(axes, paths, size=9 * cell, width=0.5)
        axes.set_xlim(first - 0.5, last + 0.5)
        axes.set_ylim(len(modules) - 0.5, -0.5)
        axes.set_aspect("equal")
        axes.set_yticks(range(len(modules)), [plain(module) for module in modules], fontsize=8)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=min(last - first + 1, 20), min_n_ticks=1))
        axes.set_xticks(np.arange(first, last) + 0.5, minor=True)
        axes.set_yticks(np.arange(len(modules) - 1) + 0.5, minor=True)
        axes.grid(which="minor", color="#d8d8d8", linewidth=0.6)
        axes.tick_params(which="both", length=0)
        axes.spines[:].set_color("#d8d8d8")
        axes.set_title(plain(run), loc="left", fontsize=10)
        axes.set_xlabel("layer")
        axes.label_outer()
    _colour_bar(figure, panels, norm, records.x)
    return with_legend(figure, panels[0])


def _in_cell(points: Any) -> Any:
    """Move points into a cell of side 1 around 0, with the same scale on both axes."""
    middle = (points.max(axis=0) + points.min(axis=0)) / 2
    return (points - middle) * 0.76 / max(np.ptp(points, axis=0).max(), 1e-12)


def _mark_ends(axes: Axes, paths: list[Any], *, size: float, width: float) -> None:
    """Mark the first and the last checkpoint of paths, each [checkpoints, 2]."""
    style: dict[str, Any] = {"markerfacecolor": "none", "markeredgecolor": "black", "linestyle": "none", "zorder": 3}
    for index, marker, label in ((0, "s", "first checkpoint"), (-1, "*", "last checkpoint")):
        x, y = np.array([path[index] for path in paths]).T
        axes.plot(x, y, marker=marker, markersize=size, markeredgewidth=width, label=label, **style)


def _colour_bar(figure: Figure, panels: list[Axes], norm: Normalize, x: str) -> None:
    style: dict[str, Any] = {"format": PercentFormatter(1.0)} if x == "share" else {"ticks": MaxNLocator(integer=True)}
    figure.colorbar(ScalarMappable(norm, _COLOUR_MAP), ax=panels, label=TRAINING[x], aspect=30, shrink=0.8, **style)


def _draw_trajectory(axes: Axes, rows: pd.DataFrame, norm: Normalize, x: str) -> None:
    points = rows.sort_values("checkpoint")
    axes.plot(points["pc1"], points["pc2"], color="#9aa0a6", linewidth=1, zorder=1)
    axes.scatter(points["pc1"], points["pc2"], c=points[x], cmap=_COLOUR_MAP, norm=norm, s=26, zorder=2)
    _mark_ends(axes, [points[["pc1", "pc2"]].to_numpy()], size=10, width=1.0)
    axes.set_aspect("equal", adjustable="datalim")
    axes.margins(0.15)
    axes.tick_params(labelsize=7)
    tidy(axes)


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
