"""The heat maps of `grid.py`: rollouts to the target over rate and prompts per step, a panel for each method."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from grid_plan import Cell
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from run_records import rate_text

from effopd.experiments.censored_statistics import CensoredEstimate
from effopd.report.drawing import save

COLUMNS = 4
COLOURS = colormaps["viridis_r"]  # dear is dark
NOTHING = "#eeeeee"


def heat_maps(
    panels: Mapping[str, Mapping[Cell, CensoredEstimate]], best: Mapping[str, Cell | None], path: Path, *, title: str
) -> list[Path]:
    """Draw the median rollouts to the target of every method.

    A cell of whose median only a lower bound is known has that bound's colour, and `>` before its number. A frame marks
    a method's best cell. All panels have the same colours, and the same axes but for rates of a kind of their own.
    Cells that were not run are grey.

    Args:
        panels: Medians of each cell, by the method's label.
        best: The cell to frame, by the method's label; None for no frame.
        path: Path of the files; its suffix is replaced by `.svg`, `.pdf` and `.png`.
        title: Title of the figure.

    Returns:
        The paths written.
    """
    known = [found.at_least for cells in panels.values() for found in cells.values()]
    norm = LogNorm(min(known), max(max(known), 1.01 * min(known)))
    sizes = sorted({prompts for cells in panels.values() for _, prompts in cells})
    rates = {label: shared_rates(cells, panels.values()) for label, cells in panels.items()}
    columns = min(COLUMNS, len(panels))
    lines = -(-len(panels) // columns)
    width, height = 0.5 + 0.42 * max(3, *map(len, rates.values())), 0.6 + 0.36 * max(3, len(sizes))
    figure = Figure(figsize=(1.4 + columns * width, 0.6 + lines * height), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False)
    for axes, (label, cells) in zip(grid.flat, panels.items(), strict=False):
        _draw(axes, cells, best[label], norm, rates[label], sizes)
        axes.set_title(label, fontsize=10)
    for axes in list(grid.flat)[len(panels) :]:
        axes.set_visible(False)
    for index, axes in enumerate(list(grid.flat)[: len(panels)]):
        if index % columns == 0:
            axes.set_ylabel("prompts per step")
        if index + columns >= len(panels):
            axes.set_xlabel("learning rate")
    drawn = figure.axes[: len(panels)]
    bar = figure.colorbar(drawn[0].images[0], ax=drawn, shrink=0.8, label="rollouts to the target")
    bar.ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    bar.ax.yaxis.set_minor_locator(NullLocator())
    figure.suptitle(title, fontsize=11)
    return save(figure, path)


def shared_rates(cells: Iterable[Cell], panels: Iterable[Iterable[Cell]]) -> list[float]:
    """Rates of a panel's axis: its own, and those of all panels that have one of them."""
    rates = {rate for rate, _ in cells}
    others = [{rate for rate, _ in other} for other in panels]
    return sorted(rates.union(*(other for other in others if other & rates)))


def _draw(
    axes: Axes,
    cells: Mapping[Cell, CensoredEstimate],
    best: Cell | None,
    norm: LogNorm,
    rates: Sequence[float],
    sizes: Sequence[int],
) -> None:
    values = np.full((len(sizes), len(rates)), np.nan)
    for (rate, prompts), found in cells.items():
        row, column = sizes.index(prompts), rates.index(rate)
        values[row, column] = found.at_least
        dark = norm(found.at_least) > 0.5
        number = short(found.at_least)
        text = number if found.is_exact else f">{number}"
        axes.text(column, row, text, ha="center", va="center", fontsize=7.5, color="white" if dark else "black")
    axes.set_facecolor(NOTHING)
    axes.imshow(values, cmap=COLOURS, norm=norm, origin="lower", aspect="auto")
    if best:
        corner = rates.index(best[0]) - 0.5, sizes.index(best[1]) - 0.5
        axes.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor="#d55e00", linewidth=2.5, clip_on=False))
    axes.set_xticks(range(len(rates)), [rate_text(rate) for rate in rates])
    axes.set_yticks(range(len(sizes)), [f"{size:,}" for size in sizes])
    axes.tick_params(labelsize=8, length=0)
    axes.spines[:].set_visible(False)


def short(number: float) -> str:
    """Write a number of rollouts in few characters: `704`, `2.8k`, `24k`."""
    if number < 1000:
        return f"{number:.0f}"
    return f"{number / 1000:.1f}k" if number < 9950 else f"{number / 1000:.0f}k"
