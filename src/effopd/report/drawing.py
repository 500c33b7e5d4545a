"""What all printed figures have in common: colours, markers, panels and how a figure is saved."""

from pathlib import Path
from typing import Any, Literal

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

# The palette of Okabe and Ito. Its colours can be told apart with every kind of colour blindness, and in greyscale by
# their lightness and markers.
COLOURS = ("#5c6670", "#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9")
_DPI = 300  # what journals ask for
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
SUFFIXES = (".svg", ".pdf", ".png")
# No file holds its date, so that the same figure makes the same file.
_METADATA: dict[str, Any] = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}, ".png": None}
_FILE_SETTINGS = {"svg.hashsalt": "effopd", "pdf.fonttype": 42}
TRAINING = {"step": "optimizer step", "share": "share of training", "checkpoint": "checkpoint"}


def save(figure: Figure, path: Path) -> list[Path]:
    """Save a figure as SVG, as PDF and as PNG of 300 dpi, each under a temporary name first.

    Args:
        figure: Figure to draw.
        path: Path of the files; its suffix is replaced.

    Returns:
        The paths written, in the order of `SUFFIXES`.
    """
    FigureCanvasAgg(figure)
    figure.set_dpi(_DPI)
    figure.draw_without_rendering()
    figure.set_layout_engine(None)  # it is laid out once, for all formats
    path.parent.mkdir(parents=True, exist_ok=True)
    paths = []
    for suffix in SUFFIXES:
        final = path.with_suffix(suffix)
        temporary = final.with_name(f".{final.name}.tmp")
        with rc_context(_FILE_SETTINGS):
            figure.savefig(temporary, format=suffix[1:], dpi=_DPI, facecolor="white", metadata=_METADATA[suffix])
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
        x: Column that the panel is drawn over: `step`, `checkpoint`, or `share`, the share of training in [0, 1].
    """
    axes.set_xlabel(TRAINING[x])
    if x == "share":
        axes.xaxis.set_major_formatter(PercentFormatter(1.0))
        axes.set_xlim(0, 1)
        within_unit(axes, "x")
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6, steps=[1, 2, 5, 10]))
    tidy(axes)


def within_unit(axes: Axes, which: Literal["x", "y"] = "y") -> None:
    """Cut an axis of shares, accuracies or cosines off at 0 and 1. Markers on the edge are drawn whole.

    Call it when everything is drawn in all panels that share the axis, because a set limit ends autoscaling.

    Args:
        axes: Panel, or one of those that share an axis, whose values along the axis all lie in [0, 1].
        which: The axis.
    """
    low, high = getattr(axes, f"get_{which}lim")()
    getattr(axes, f"set_{which}lim")(max(low, 0.0), min(high, 1.0))
    for panel in getattr(axes, f"get_shared_{which}_axes")().get_siblings(axes):
        for line in panel.lines:
            line.set_clip_on(False)


def row_of_panels(
    count: int, *, sharey: bool = False, width: float = 3.7, height: float = 2.9
) -> tuple[Figure, list[Axes]]:
    """Make a figure with `count` panels, three in a row, or two if there are four.

    Args:
        count: Number of panels.
        sharey: Whether all panels have the same vertical axis.
        width: Width of each panel, in inches.
        height: Height of each panel, in inches.

    Returns:
        The figure, and its panels from left to right and from top to bottom.
    """
    columns = 2 if count == 4 else min(count, 3)
    lines = -(-count // columns)
    figure = Figure(figsize=(max(width * columns, 4.6), 0.5 + height * lines), layout="constrained")
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
