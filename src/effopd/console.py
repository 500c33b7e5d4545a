"""What commands show in the terminal: a progress bar, and at the end where the results are."""

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


def progress_bar(
    unit: str = "",
    *,
    columns: Sequence[ProgressColumn] | None = None,
    console: Console | None = None,
    time_left: bool = True,
    transient: bool = False,
) -> Progress:
    """Make a progress bar, to be used as a context manager. It draws nothing on a console that is no terminal.

    It shows a description, the bar, the number of parts done, the time taken and the time left.

    Args:
        unit: Name in the plural of the parts that are counted, which is shown after their number.
        columns: Columns in place of the number of parts done, between the bar and the times.
        console: Console to draw on; standard error by default.
        time_left: Whether the time left is estimated and shown.
        transient: Whether the bar is removed at the end.
    """
    console = console or Console(stderr=True)
    counted = [MofNCompleteColumn(), *([TextColumn(unit)] if unit else [])] if columns is None else columns
    times = [TimeElapsedColumn(), *([TextColumn("left"), TimeRemainingColumn()] if time_left else [])]
    bar = [TextColumn("{task.description}", markup=False), BarColumn(bar_width=20)]
    return Progress(*bar, *counted, *times, console=console, disable=not console.is_terminal, transient=transient)


def print_places(console: Console, places: Mapping[str, object]) -> None:
    """Print a line for each place where results are, with a label before it."""
    for label, place in places.items():
        console.print(f"{label + ':':8} {place}", soft_wrap=True)
