"""`effopd sweep`: plan, execute, gather, draw."""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

import effopd.evaluation as evaluation
from effopd.files import locked
from effopd.models.find import absolute_name
from effopd.report.sweep import write_sweep_report
from effopd.sweeps.cells import Plan, plan_cells
from effopd.sweeps.execute import Finished, check_workers, execute
from effopd.sweeps.results import Results
from effopd.sweeps.spec import SweepSpec
from effopd.sweeps.worker import Settings

_SECONDS_PER_LINE = 60.0


class SweepResult(NamedTuple):
    """How a sweep ended.

    Attributes:
        directory: Where the results lie.
        num_cells: Cells of the whole sweep.
        failed: A line for each cell that failed: what it was, and its error.
        written: Figures and tables.
    """

    directory: Path
    num_cells: int
    failed: list[str]
    written: list[Path]


def sweep(
    spec: SweepSpec,
    out: str | Path,
    *,
    workers: int | None = None,
    address: str | None = None,
    gpus_per_worker: float = 0.0,
    console: Console | None = None,
) -> SweepResult:
    """Evaluate every cell of a specification, and draw its figures.

    Interrupted, or with cells that failed, the same call does what is left; with other sweeps of the same models, one
    does what is new.

    Args:
        spec: From `read_spec` or `make_spec`.
        out: Where the results and figures go: see `effopd.sweeps.results`.
        workers: How many at a time, of one thread each on a CPU; by default as many as there are processors, or GPUs to
            share out. One works in this process, without Ray.
        address: Of a Ray cluster that runs; by default one is started on this machine for the time.
        gpus_per_worker: GPUs for each worker, a fraction to share one; 0 works on the CPU.
        console: Where progress is shown; stdout by default.

    Raises:
        CheckpointError: `out` holds a sweep of other models or settings, or no worker could be started.
        ConfigurationError: The specification does not fit the models, or there are no such GPUs.
        DataError: A model or task cannot be read, or another sweep is writing to `out`.
        UnsupportedError: Ray is needed and not installed.
    """
    check_workers(workers, address, gpus_per_worker)
    plan = plan_cells(spec)
    for task in spec.tasks:
        evaluation.load_task(task, limit=spec.limit)  # a wrong name is an error now, not one of each cell
    with locked(Path(out)):
        return _sweep(spec, plan, Results(Path(out), plan), workers, address, gpus_per_worker, console)


def _sweep(
    spec: SweepSpec,
    plan: Plan,
    results: Results,
    workers: int | None,
    address: str | None,
    gpus_per_worker: float,
    console: Console | None,
) -> SweepResult:
    left = [cell for cell in plan.cells if not results.is_done(cell)]
    settings = Settings(
        absolute_name(spec.base),
        absolute_name(spec.teacher) if spec.teacher else None,
        spec.limit,
        spec.num_samples,
        spec.temperature,
        spec.batch_size,
        "cuda" if gpus_per_worker else "cpu",
    )
    console = console or Console(highlight=False)
    done = execute(left, settings, workers=workers, address=address, gpus_per_worker=gpus_per_worker)
    try:
        with _shown(console, len(plan.cells), len(plan.cells) - len(left)) as advance, contextlib.closing(done):
            for finished in done:
                results.add(finished)
                advance(finished)
    finally:
        table = results.compact()
    written = write_sweep_report(results.directory) if table.num_rows else []
    failed = [f"{each['what']}: {each['error']}" for each in results.failed]
    return SweepResult(results.directory, len(plan.cells), failed, written)


@contextlib.contextmanager
def _shown(console: Console, total: int, already: int) -> Iterator[Callable[[Finished], None]]:
    """Progress in cells with the time left; gives a function to call with each finished cell.

    A bar on a terminal; elsewhere, a line a minute.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("cells"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    start = said = time.monotonic()
    done = failures = 0
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("sweeping", total=total, completed=already)

        def advance(finished: Finished) -> None:
            nonlocal said, done, failures
            done += 1
            failures += finished.outcome.error is not None
            note = f"sweeping, {failures} failed" if failures else "sweeping"
            progress.update(task, advance=1, description=note)
            now = time.monotonic()
            if not console.is_terminal and now - said >= _SECONDS_PER_LINE:
                said, left = now, (total - already - done) * (now - start) / done
                console.print(f"{note}: {already + done}/{total} cells, {left / 60:.1f} minutes left")

        yield advance
