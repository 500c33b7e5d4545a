"""The printed heat maps of an analysis, of layers and modules."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from effopd.report.analysis.records import AnalysisRecords, last_checkpoints
from effopd.report.analysis.series import layer_by_module
from effopd.report.drawing import plain

_COLOUR_MAP = colormaps["viridis"].with_extremes(bad="#d8d8d8")


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


def draw_trajectory_evr(records: AnalysisRecords) -> Figure | None:
    """Draw the share of the variance of u_1 over the checkpoints that lies in two principal components."""
    last = last_checkpoints(records.matrices)
    maps = {run: layer_by_module(last[last["run"] == run], "trajectory_evr") for run in records.runs}
    return _heat_maps(maps, r"EVR$_{0:2}$ of $u_1$ over training", limits=(0.0, 1.0))


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
