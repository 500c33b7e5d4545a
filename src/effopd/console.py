"""The progress bar that every command shows: description, bar, number of parts done, time taken, time left."""

from collections.abc import Sequence

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
