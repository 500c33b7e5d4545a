"""The printed figures of an analysis by name, and those over training, of singular values and of layers."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from effopd.report.analysis.embeddings import draw_embedding_shift
from effopd.report.analysis.maps import draw_effective_rank, draw_first_vector, draw_trajectory_evr
from effopd.report.analysis.records import AnalysisRecords
from effopd.report.analysis.series import (
    TAIL_PERCENTS,
    SampledSpectrum,
    alignment_by_rank,
    log_spaced,
    mean_over_training,
    norms_by_layer,
    norms_over_training,
    tail_norms,
)
from effopd.report.analysis.trajectories import draw_trajectories, draw_trajectory_grid
from effopd.report.drawing import (
    COLOURS,
    line_style,
    over_training_axes,
    plain,
    row_of_panels,
    save,
    tidy,
    with_legend,
    within_unit,
)

FIGURE_NAMES = (
    *("update_norm", "concentration", "alignment", "alignment_by_rank", "effective_rank", "first_vector"),
    *("spectra", "tail_norm", "layer_norms", "trajectory", "trajectory_evr", "trajectory_tsne"),
    *("trajectory_tsne_authors", "embedding_shift"),
)
_KIND_LABEL = {"all": "all parameters", "attention": "attention", "mlp": "MLP"}
_MAX_THIN_LINES = 60
_RANKS = colormaps["viridis"]


def draw_figures(records: AnalysisRecords, spectra: Sequence[SampledSpectrum], folder: Path) -> list[Path]:
    """Draw every figure for which there are records.

    A figure over training needs two checkpoints, one of matrices needs a matrix, and so on. A figure that lacks its
    records is not drawn.

    Args:
        records: The analysis.
        spectra: Singular values, as `read_spectra` returns them.
        folder: Directory for the figures.

    Returns:
        The paths written.
    """
    draw: dict[str, Callable[[], Figure | None]] = {
        "update_norm": lambda: draw_update_norm(records),
        "concentration": lambda: draw_concentration(records),
        "alignment": lambda: draw_alignment(records),
        "alignment_by_rank": lambda: draw_alignment_by_rank(records),
        "effective_rank": lambda: draw_effective_rank(records),
        "first_vector": lambda: draw_first_vector(records),
        "spectra": lambda: draw_spectra(records, spectra),
        "tail_norm": lambda: draw_tail_norm(records, spectra),
        "layer_norms": lambda: draw_layer_norms(records),
        "trajectory": lambda: draw_trajectories(records),
        "trajectory_evr": lambda: draw_trajectory_evr(records),
        "trajectory_tsne": lambda: draw_trajectory_grid(records, "tsne"),
        "trajectory_tsne_authors": lambda: draw_trajectory_grid(records, "authors_tsne"),
        "embedding_shift": lambda: draw_embedding_shift(records),
    }
    paths = []
    for name in FIGURE_NAMES:
        figure = draw[name]()
        if figure is not None:
            paths += save(figure, folder / name)
    return paths


def draw_update_norm(records: AnalysisRecords) -> Figure | None:
    """Draw the Frobenius norm of the update over training, of all parameters, of attention and of the MLP."""
    if records.num_checkpoints < 2:
        return None
    rows = norms_over_training(records)
    kinds = [kind for kind in _KIND_LABEL if (rows["kind"] == kind).any()]
    figure, panels = row_of_panels(len(kinds))
    for axes, kind in zip(panels, kinds, strict=True):
        for index, run in enumerate(records.runs):
            line = rows[(rows["run"] == run) & (rows["kind"] == kind)]
            axes.plot(line[records.x], line["norm"], label=plain(run), **line_style(index, len(line)))
        axes.set_title(_KIND_LABEL[kind], loc="left", fontsize=10)
        over_training_axes(axes, records.x)
        axes.set_ylim(bottom=0)
    panels[0].set_ylabel(r"$\Vert\Delta W\Vert_F$")
    return with_legend(figure, panels[0])


def draw_concentration(records: AnalysisRecords) -> Figure | None:
    """Draw the metrics of the paper's Table 1 over training: their mean over matrices, with the quartiles as a band."""
    if records.num_checkpoints < 2 or records.matrices.empty:
        return None
    columns = {
        "spectral_norm": "spectral norm",
        "spectral_to_frobenius": "spectral / Frobenius norm",
        "effective_rank": "effective rank",
        "top1pct_norm_ratio": "top-1 % norm ratio",
    }
    figure, panels = row_of_panels(len(columns))
    for axes, (column, label) in zip(panels, columns.items(), strict=True):
        _draw_bands(axes, records, column)
        axes.set_title(label, loc="left", fontsize=10)
        if column in ("spectral_to_frobenius", "top1pct_norm_ratio"):
            within_unit(axes)
    return with_legend(figure, panels[0])


def draw_alignment(records: AnalysisRecords) -> Figure | None:
    """Draw each checkpoint's alignment with the run's last one, and the level that chance would reach."""
    if records.num_checkpoints < 2 or records.matrices["subspace_alignment"].notna().sum() == 0:
        return None
    figure, panels = row_of_panels(2, width=4.2)
    for axes, column, label, unit in (
        (panels[0], "vector_alignment", "singular vectors", r"mean of $|\cos u_k|$"),
        (panels[1], "subspace_alignment", "subspaces", "rms cosine of principal angles"),
    ):
        axes.set_ylabel(unit)
        _draw_bands(axes, records, column)
        axes.set_ylim(0, 1)
        within_unit(axes)
        axes.set_title(label, loc="left", fontsize=10)
    chance = records.matrices["chance_alignment"].mean()
    if np.isfinite(chance):
        panels[1].axhline(chance, color="black", linewidth=1, linestyle=(0, (4, 3)), label="chance, subspaces (mean)")
    return with_legend(figure, panels[1])


def draw_alignment_by_rank(records: AnalysisRecords) -> Figure | None:
    """Draw each checkpoint's alignment with the run's last one for every rank, of vectors and of nested subspaces."""
    rows = alignment_by_rank(records)
    if records.num_checkpoints < 2 or rows.empty:
        return None
    runs = [run for run in records.runs if (rows["run"] == run).any()]
    figure = Figure(figsize=(max(3.1 * len(runs) + 1.2, 5), 5.6), layout="constrained")
    grid = figure.subplots(2, len(runs), sharex=True, sharey=True, squeeze=False)
    most = int(rows["rank"].max())
    norm = BoundaryNorm(np.arange(0.5, most + 1), 256)
    quantities = {"vector": r"$|\cos u_k|$", "subspace": r"rms cosine, span of $u_1..u_k$"}
    for (quantity, label), panels in zip(quantities.items(), grid, strict=True):
        for run, axes in zip(runs, panels, strict=True):
            of_run = rows[rows["run"] == run]
            for rank, line in of_run.groupby("rank"):
                style = {"color": _RANKS(norm(rank)), "linewidth": 1.2, "marker": "o", "markersize": 2.2}
                axes.plot(line[records.x], line[quantity], **style)
            chance = of_run.loc[of_run["rank"] == most, f"chance_{quantity}"].mean()
            axes.axhline(
                chance, color="black", linewidth=1, linestyle=(0, (4, 3)), label=f"chance (of subspaces: k = {most})"
            )
            axes.set_ylim(0, 1)
            over_training_axes(axes, records.x)
        panels[0].set_ylabel(label)
    for run, above, below in zip(runs, *grid, strict=True):
        above.set_title(plain(run), loc="left", fontsize=10)
        above.set_xlabel("")
        within_unit(below)
    ticks = [rank for rank in (1, 5, 10, 15, 20) if rank <= most]
    figure.colorbar(ScalarMappable(norm, _RANKS), ax=list(grid.flat), label="rank $k$", ticks=ticks, aspect=30)
    return with_legend(figure, grid[1][0])


def draw_spectra(records: AnalysisRecords, spectra: Sequence[SampledSpectrum]) -> Figure | None:
    """Draw singular values relative to the largest: a thin line for each matrix, a thick one for each kind's median."""
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
    panels[0].set_ylim(max(low / 2, 1e-6), 1.6)  # what lies below is rounding of the Gram matrix
    panels[0].set_ylabel(r"$\sigma_i\,/\,\sigma_1$")
    return with_legend(figure, panels[0])


def draw_tail_norm(records: AnalysisRecords, spectra: Sequence[SampledSpectrum]) -> Figure | None:
    """Draw the norm that is left of the update without its first p % of the components, as a share and as it is."""
    rows = tail_norms(records, spectra)
    if rows.empty:
        return None
    figure, panels = row_of_panels(2, width=4.2)
    for axes, column, title in (
        (panels[0], "share", "share of the norm"),
        (panels[1], "norm", "mean norm of a matrix"),
    ):
        for index, run in enumerate(records.runs):
            line = rows[rows["run"] == run]
            if line.empty:  # the run's update is zero
                continue
            style = line_style(index)
            axes.plot(line["percent"], line[column], label=plain(run), clip_on=False, **style)
            if column == "share":
                axes.fill_between(
                    line["percent"], line["low"], line["high"], color=style["color"], alpha=0.15, linewidth=0
                )
        axes.axvline(1, color="black", linewidth=1, linestyle=":", zorder=1)
        axes.set(xscale="log", xlabel="first components left out, %", xlim=(TAIL_PERCENTS[0], 100))
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.set_title(title, loc="left", fontsize=10)
        tidy(axes)
    panels[0].set_ylim(0, 1)
    within_unit(panels[0])
    panels[0].set_ylabel(r"$\Vert$tail of $\Delta W\Vert_F\,/\,\Vert\Delta W\Vert_F$")
    panels[1].set_ylabel(r"$\Vert$tail of $\Delta W\Vert_F$")
    return with_legend(figure, panels[0])


def draw_layer_norms(records: AnalysisRecords) -> Figure | None:
    """Draw the norm of each layer's update at the last checkpoint, with attention and MLP in panels of their own."""
    rows = norms_by_layer(records)
    kinds = [kind for kind in ("attention", "mlp") if (rows["kind"] == kind).any()]
    if not kinds:
        return None
    figure, panels = row_of_panels(len(kinds), sharey=True, width=4.8)
    for axes, kind in zip(panels, kinds, strict=True):
        for index, run in enumerate(records.runs):
            line = rows[(rows["run"] == run) & (rows["kind"] == kind)].sort_values("layer")
            axes.plot(line["layer"], line["norm"], label=plain(run), **line_style(index, len(line)))
        axes.set_title(_KIND_LABEL[kind], loc="left", fontsize=10)
        axes.set_xlabel("layer")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
        if len(layers := rows.loc[rows["kind"] == kind, "layer"].unique()) == 1:
            axes.set_xlim(layers[0] - 1, layers[0] + 1)  # otherwise the ticks would be fractions of a layer
        tidy(axes)
    # This comes after the last panel is drawn: the panels share the axis, and setting a limit ends its autoscaling.
    panels[0].set_ylim(bottom=0)
    panels[0].set_ylabel(r"$\Vert\Delta W\Vert_F$ of the layer")
    return with_legend(figure, panels[0])


def _draw_bands(axes: Axes, records: AnalysisRecords, column: str) -> None:
    rows = mean_over_training(records, column)
    for index, run in enumerate(records.runs):
        line = rows[rows["run"] == run]
        style = line_style(index, len(line))
        axes.plot(line[records.x], line["mean"], label=plain(run), **style)
        axes.fill_between(line[records.x], line["low"], line["high"], color=style["color"], alpha=0.15, linewidth=0)
    over_training_axes(axes, records.x)


def _draw_group(axes: Axes, group: Sequence[SampledSpectrum], colour: str, label: str) -> None:
    shortest = min(int(each.indices[-1]) for each in group)
    grid = log_spaced(shortest)
    curves = [np.exp(np.interp(np.log(grid), np.log(s.indices), np.log(s.values / s.values[0]))) for s in group]
    for each in group[:: max(1, len(group) // _MAX_THIN_LINES)]:
        axes.plot(each.indices, each.values / each.values[0], color=colour, linewidth=0.6, alpha=0.22)
    axes.plot(grid, np.median(curves, axis=0), color=colour, linewidth=2.4, label=label, zorder=3)
