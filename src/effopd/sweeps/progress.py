"""What a sweep shows while it goes on: how many cells are done, and how long the others will take."""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rich.console import Console

from effopd.console import progress_bar
from effopd.report.sweep import is_off
from effopd.sweeps.cells import Cell
from effopd.sweeps.estimate import readable, seconds_left
from effopd.sweeps.execute import FinishedCell

_SECONDS_PER_LINE = 60.0


class SweepProgress:
    """Counts the cells of a sweep, and estimates the time of those that are left.

    Args:
        console: Console to print on.
        total: Number of cells of the whole sweep.
        left: Cells that were not done before.
        chosen: Those of them that will be evaluated.
        rows: Rows of the cells that were done before.
        workers: Number of workers.
    """

    def __init__(
        self,
        console: Console,
        total: int,
        left: Sequence[Cell],
        chosen: Sequence[Cell],
        rows: list[dict[str, Any]],
        workers: int,
    ) -> None:
        self._console, self._total, self._workers = console, total, workers
        self._left = {cell.key: cell for cell in left}
        self._chosen, self._rows = chosen, rows
        self._failures = 0
        self._warned = False

    def say_time(self) -> None:
        """Say how long the cells that are left will take, or what will tell."""
        seconds = seconds_left(list(self._left.values()), self._rows, self._workers)
        if seconds is None:
            self._console.print("The first cell will tell how long they take (--limit-cells 1 ends after it).")
        else:
            on = f"{self._workers} workers" if self._workers > 1 else "1 worker"
            self._console.print(f"About {readable(seconds)} on {on}, as finished cells took.")

    @contextlib.contextmanager
    def running(self) -> Iterator[Callable[[FinishedCell], None]]:
        """Show a bar on a terminal, and elsewhere a line a minute.

        Yields:
            Function that is called with each finished cell.
        """
        said = time.monotonic()
        already = self._total - len(self._left)
        with progress_bar("cells", console=self._console) as progress:
            bar = progress.add_task("sweeping", total=already + len(self._chosen), completed=already)

            def advance(finished: FinishedCell) -> None:
                nonlocal said
                self._left.pop(finished.cell.key, None)
                first = not self._rows
                self._note(finished)
                self._warn(finished)
                note = f"sweeping, {self._failures} failed" if self._failures else "sweeping"
                progress.update(bar, advance=1, description=note)
                now = time.monotonic()
                if first and self._rows and self._left:
                    self._console.print(f"The first cell took {readable(self._rows[0]['seconds'])}.")
                    self.say_time()
                elif not self._console.is_terminal and now - said >= _SECONDS_PER_LINE:
                    said = now
                    self._console.print(f"{note}: {self._total - len(self._left)}/{self._total} cells are done.")
                    self.say_time()

            yield advance

    def _note(self, finished: FinishedCell) -> None:
        measured = finished.outcome.measured
        if measured is None:
            self._failures += 1
        else:
            self._rows.append({**measured, "cell": finished.cell.key, "task": finished.cell.task})

    def _warn(self, finished: FinishedCell) -> None:
        """Warn, once, of a model whose realised update is another than the intended one."""
        measured = finished.outcome.measured
        if self._warned or measured is None or not is_off(measured["relative_error"], measured["update_norm"]):
            return
        self._warned = True
        error = measured["relative_error"]
        by = "although no update was intended" if error is None else f"by {error:.0%} of its norm"
        self._console.print(
            f"Warning: {finished.cell}, held in {measured['dtype']}: the realised update differs from the intended one "
            f"{by}, because of rounding. Set `dtype: float32`. Columns, tables and figures tell the error of every "
            "model; further ones are not warned of.",
            markup=False,
            soft_wrap=True,
        )
