"""Printed figures of an analysis: SVG and PNG, runs overlaid or side by side."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from effopd.report.analysis.maps import draw_effective_rank, draw_embedding_shift, draw_first_vector, draw_trajectories
from effopd.report.analysis.records import Records
from effopd.report.analysis.series import SampledSpectrum, layer_norms, log_spaced, over_training, update_norms
from effopd.report.drawing import COLOURS, line_style, over_training_axes, plain, row_of_panels, save, tidy, with_legend

FIGURES = (
    *("update_norm", "concentration", "alignment", "effective_rank", "first_vector"),
    *("spectra", "layer_norms", "trajectory", "embedding_shift"),
)
_KIND_LABEL = {"all": "all parameters", "attention": "attention", "mlp": "MLP"}
_THIN = 60


def draw_figures(records: Records, spectra: Sequence[SampledSpectrum], folder: Path) -> list[Path]:
    """Draw every figure for which there are records.

    Args:
        records: The analysis.
        spectra: From `series.read_spectra`.
        folder: Where to.

    Returns:
        The paths written. Figures over training need two checkpoints, those of matrices a matrix, and so on: what is
        not there is not drawn.
    """
    draw: dict[str, Callable[[], Figure | None]] = {
        "update_norm": lambda: draw_update_norm(records),
        "concentration": lambda: draw_concentration(records),
        "alignment": lambda: draw_alignment(records),
        "effective_rank": lambda: draw_effective_rank(records),
        "first_vector": lambda: draw_first_vector(records),
        "spectra": lambda: draw_spectra(records, spectra),
        "layer_norms": lambda: draw_layer_norms(records),
        "trajectory": lambda: draw_trajectories(records),
        "embedding_shift": lambda: draw_embedding_shift(records),
    }
    paths = []
    for name in FIGURES:
        figure = draw[name]()
        if figure is not None:
            paths += save(figure, folder / name)
    return paths


def draw_update_norm(records: Records) -> Figure | None:
    """Frobenius norm of the update over training: all parameters, attention, MLP."""
    if records.num_checkpoints < 2:
        return None
    rows = update_norms(records)
    kinds = [kind for kind in _KIND_LABEL if (rows["kind"] == kind).any()]
    figure, panels = row_of_panels(len(kinds))
    for axes, kind in zip(panels, kinds, strict=True):
        for index, run in enumerate(records.runs):
            of = rows[(rows["run"] == run) & (rows["kind"] == kind)]
            axes.plot(of[records.x], of["norm"], label=plain(run), **line_style(index, len(of)))
        axes.set_title(_KIND_LABEL[kind], loc="left", fontsize=10)
        over_training_axes(axes, records.x)
        axes.set_ylim(bottom=0)
    panels[0].set_ylabel(r"$\Vert\Delta W\Vert_F$")
    return with_legend(figure, panels[0])


def draw_concentration(records: Records) -> Figure | None:
    """The metrics of the paper's Table 1 over training: mean over matrices, with their quartiles."""
    if records.num_checkpoints < 2 or records.matrices.empty:
        return None
    columns = {
        "spectral_to_frobenius": "spectral / Frobenius norm",
        "effective_rank": "effective rank",
        "top1pct_norm_ratio": "top-1 % norm ratio",
    }
    figure, panels = row_of_panels(len(columns))
    for axes, (column, label) in zip(panels, columns.items(), strict=True):
        _draw_bands(axes, records, column)
        axes.set_title(label, loc="left", fontsize=10)
    return with_legend(figure, panels[0])


def draw_alignment(records: Records) -> Figure | None:
    """Alignment with the run's last checkpoint over training, with the level of chance."""
    if records.num_checkpoints < 2 or records.matrices["subspace_alignment"].notna().sum() == 0:
        return None
    figure, panels = row_of_panels(2, width=4.2)
    for axes, column, label, unit in (
        (panels[0], "vector_alignment", "singular vectors", r"mean of $|\cos u_k|$"),
        (panels[1], "subspace_alignment", "subspaces", "rms cosine of principal angles"),
    ):
        axes.set_ylabel(unit)
        _draw_bands(axes, records, column)
        axes.set_ylim(0, 1.03)
        axes.set_title(label, loc="left", fontsize=10)
    chance = records.matrices["chance_alignment"].mean()
    if np.isfinite(chance):
        panels[1].axhline(chance, color="black", linewidth=1, linestyle=(0, (4, 3)), label="chance, subspaces (mean)")
    return with_legend(figure, panels[1])


def draw_spectra(records: Records, spectra: Sequence[SampledSpectrum]) -> Figure | None:
    """Singular values relative to the largest: thin lines are matrices, thick ones the median of each kind."""
    runs = [run for run in records.runs if any(spectrum.run == run for spectrum in spectra)]
    if not runs:
        return None
    kinds = dict(zip(records.updates["parameter"], records.updates["kind"], strict=True))
    figure, panels = row_of_panels(len(runs), sharey=True)
    for axes, run in zip(panels, runs, strict=True):
        for index, kind in ((1, "attention"), (4, "mlp")):
            group = [each for each in spectra if each.run == run and kinds[each.parameter] == kind]
            if group:
                _draw_group(axes, group, COLOURS[index], f"{_KIND_LABEL[kind]}, median")
        axes.set(xscale="log", yscale="log", xlabel="index $i$")
        axes.set_title(plain(run), loc="left", fontsize=10)
        tidy(axes)
    low = min(float(np.min(each.values) / each.values[0]) for each in spectra)
    panels[0].set_ylim(max(low / 2, 1e-6), 1.6)  # below lies the rounding of the Gram matrix
    panels[0].set_ylabel(r"$\sigma_i\,/\,\sigma_1$")
    return with_legend(figure, panels[0])


def draw_layer_norms(records: Records) -> Figure | None:
    """Norm of the update by layer at the last checkpoint, attention and MLP apart."""
    rows = layer_norms(records)
    kinds = [kind for kind in ("attention", "mlp") if (rows["kind"] == kind).any()]
    if not kinds:
        return None
    figure, panels = row_of_panels(len(kinds), sharey=True, width=4.8)
    for axes, kind in zip(panels, kinds, strict=True):
        for index, run in enumerate(records.runs):
            of = rows[(rows["run"] == run) & (rows["kind"] == kind)].sort_values("layer")
            axes.plot(of["layer"], of["norm"], label=plain(run), **line_style(index, len(of)))
        axes.set_title(_KIND_LABEL[kind], loc="left", fontsize=10)
        axes.set_xlabel("layer")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
        if len(layers := rows.loc[rows["kind"] == kind, "layer"].unique()) == 1:
            axes.set_xlim(layers[0] - 1, layers[0] + 1)  # or the ticks are fractions of a layer
        tidy(axes)
    panels[0].set_ylim(bottom=0)  # after the last panel: the axis is shared, and a limit ends its autoscaling
    panels[0].set_ylabel(r"$\Vert\Delta W\Vert_F$ of the layer")
    return with_legend(figure, panels[0])


def _draw_bands(axes: Axes, records: Records, column: str) -> None:
    rows = over_training(records, column)
    for index, run in enumerate(records.runs):
        of = rows[rows["run"] == run]
        style = line_style(index, len(of))
        axes.plot(of[records.x], of["mean"], label=plain(run), **style)
        axes.fill_between(of[records.x], of["low"], of["high"], color=style["color"], alpha=0.15, linewidth=0)
    over_training_axes(axes, records.x)


def _draw_group(axes: Axes, group: Sequence[SampledSpectrum], colour: str, label: str) -> None:
    shortest = min(int(each.indices[-1]) for each in group)
    grid = log_spaced(shortest)
    curves = [np.exp(np.interp(np.log(grid), np.log(s.indices), np.log(s.values / s.values[0]))) for s in group]
    for each in group[:: max(1, len(group) // _THIN)]:
        axes.plot(each.indices, each.values / each.values[0], color=colour, linewidth=0.6, alpha=0.22)
    axes.plot(grid, np.median(curves, axis=0), color=colour, linewidth=2.4, label=label, zorder=3)
