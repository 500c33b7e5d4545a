"""What all printed figures have in common: colours, markers, panels and how a figure is saved."""

from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

# The palette of Okabe and Ito. Its colours can be told apart with every kind of colour blindness, and in greyscale by
# their lightness and markers.
COLOURS = ("#5c6670", "#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9")
_DPI = 150
MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def save(figure: Figure, path: Path) -> list[Path]:
    """Save a figure as SVG and as PNG, each under a temporary name first.

    Args:
        figure: Figure to draw.
        path: Path of the files; its suffix is replaced.

    Returns:
        The paths written: that of the SVG, then that of the PNG.
    """
    FigureCanvasAgg(figure)
    figure.set_dpi(_DPI)
    figure.draw_without_rendering()
    figure.set_layout_engine(None)  # it is laid out once, for both formats
    path.parent.mkdir(parents=True, exist_ok=True)
    paths = []
    for suffix in (".svg", ".png"):
        final = path.with_suffix(suffix)
        temporary = final.with_name(f".{final.name}.tmp")
        metadata = {"Date": None} if suffix == ".svg" else None  # so that the same figure makes the same file
        with rc_context({"svg.hashsalt": "effopd"}):
            figure.savefig(temporary, format=suffix[1:], dpi=_DPI, facecolor="white", metadata=metadata)
        temporary.replace(final)
        paths.append(final)
    return paths


def plain(text: str) -> str:
    """Escape a text so that matplotlib does not read it as mathematics, and shorten it to 32 characters."""
    text = text.replace("\\", "\\\\").replace("$", r"\$").replace("\n", " ")
    return text if len(text) <= 32 else text[:31] + "…"


def line_style(index: int, points: int = 1) -> dict[str, Any]:
    """Choose how a run is drawn in every figure.

    Args:
        index: Index of the run among all runs, from 0.
        points: Number of points on the line. Of many points, about 20 get a marker.
    """
    index += 1  # the first colour, grey, is for what is not a run
    return {
        "color": COLOURS[index % len(COLOURS)],
        "marker": MARKERS[index % len(MARKERS)],
        "markersize": 4.5,
        "linewidth": 1.8,
        "markevery": max(1, points // 20),
        "linestyle": ("-", "--", ":", "-.")[index // len(COLOURS) % 4],
    }


def over_training_axes(axes: Axes, x: str) -> None:
    """Label the horizontal axis of a panel that shows something over training.

    Args:
        axes: Panel to label.
        x: Column that the panel is drawn over, `step` or `checkpoint`.
    """
    axes.set_xlabel("optimizer step" if x == "step" else "checkpoint")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6, steps=[1, 2, 5, 10]))
    tidy(axes)


def row_of_panels(count: int, *, sharey: bool = False, width: float = 3.7) -> tuple[Figure, list[Axes]]:
    """Make a figure with `count` panels, three in a row.

    Args:
        count: Number of panels.
        sharey: Whether all panels have the same vertical axis.
        width: Width of each panel, in inches.

    Returns:
        The figure, and its panels from left to right and from top to bottom.
    """
    columns = min(count, 3)
    lines = -(-count // columns)
    figure = Figure(figsize=(max(width * columns, 4.6), 0.5 + 2.9 * lines), layout="constrained")
    panels = list(figure.subplots(lines, columns, sharey=sharey, squeeze=False).flat)
    for axes in panels[count:]:
        axes.set_visible(False)
    return figure, panels[:count]


def with_legend(figure: Figure, axes: Axes) -> Figure:
    """Put the legend of one panel above the figure, and return the figure."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=min(len(labels), 4), frameon=False)
    return figure


def tidy(axes: Axes) -> None:
    """Give a panel a faint grid, and take the box around it away."""
    axes.grid(alpha=0.2)
    axes.spines[["top", "right"]].set_visible(False)
