"""What all figures share: colours, markers and how a figure is saved."""

from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

# Okabe and Ito's palette: told apart with every kind of colour blindness, and in grey by lightness and marker.
COLOURS = ("#5c6670", "#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9")
_DPI = 150
MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def save(figure: Figure, path: Path) -> list[Path]:
    """Write SVG and PNG, each under a temporary name first.

    Args:
        figure: What to draw.
        path: Where to, with any suffix.

    Returns:
        The paths written: the SVG, then the PNG.
    """
    FigureCanvasAgg(figure)
    figure.set_dpi(_DPI)
    figure.draw_without_rendering()
    figure.set_layout_engine(None)  # laid out once for both formats
    path.parent.mkdir(parents=True, exist_ok=True)
    paths = []
    for suffix in (".svg", ".png"):
        final = path.with_suffix(suffix)
        temporary = final.with_name(f".{final.name}.tmp")
        metadata = {"Date": None} if suffix == ".svg" else None  # the same figure is the same file
        with rc_context({"svg.hashsalt": "effopd"}):
            figure.savefig(temporary, format=suffix[1:], dpi=_DPI, facecolor="white", metadata=metadata)
        temporary.replace(final)
        paths.append(final)
    return paths


def plain(text: str) -> str:
    """Text that matplotlib draws as it is: without its mathematics, and not too long."""
    text = text.replace("\\", "\\\\").replace("$", r"\$").replace("\n", " ")
    return text if len(text) <= 32 else text[:31] + "…"


def line_style(index: int, points: int = 1) -> dict[str, Any]:
    """How the run of this number is drawn, everywhere; of many points, some 20 have a marker."""
    index += 1  # grey is for what is no run
    return {
        "color": COLOURS[index % len(COLOURS)],
        "marker": MARKERS[index % len(MARKERS)],
        "markersize": 4.5,
        "linewidth": 1.8,
        "markevery": max(1, points // 20),
        "linestyle": ("-", "--", ":", "-.")[index // len(COLOURS) % 4],
    }


def over_training_axes(axes: Axes, x: str) -> None:
    """Axes over training."""
    axes.set_xlabel("optimizer step" if x == "step" else "checkpoint")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6, steps=[1, 2, 5, 10]))
    tidy(axes)


def row_of_panels(count: int, *, sharey: bool = False, width: float = 3.7) -> tuple[Figure, list[Axes]]:
    """A figure of so many panels, three to a line."""
    columns = min(count, 3)
    lines = -(-count // columns)
    figure = Figure(figsize=(max(width * columns, 4.6), 0.5 + 2.9 * lines), layout="constrained")
    panels = list(figure.subplots(lines, columns, sharey=sharey, squeeze=False).flat)
    for axes in panels[count:]:
        axes.set_visible(False)
    return figure, panels[:count]


def with_legend(figure: Figure, axes: Axes) -> Figure:
    """The figure with the legend of one panel above."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=min(len(labels), 4), frameon=False)
    return figure


def tidy(axes: Axes) -> None:
    """A faint grid and no box."""
    axes.grid(alpha=0.2)
    axes.spines[["top", "right"]].set_visible(False)
