"""`effopd sweep`: plan the cells, evaluate them, gather their results, and draw the figures."""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

import effopd.evaluation as evaluation
from effopd import __version__
from effopd.console import progress_bar
from effopd.models.find import absolute_name
from effopd.report.sweep import is_off, write_sweep_report
from effopd.run_directory import claimed
from effopd.sweeps.cells import plan_cells
from effopd.sweeps.execute import FinishedCell, check_workers, execute
from effopd.sweeps.results import SWEEP_FILE, ResultsDirectory, differences
from effopd.sweeps.spec import SweepSpec
from effopd.sweeps.teacher import check_teacher
from effopd.sweeps.worker import CellSettings

_SECONDS_PER_LINE = 60.0


class SweepResult(NamedTuple):
    """How a sweep ended.

    Attributes:
        directory: Directory of the results.
        num_cells: Number of cells of the whole sweep.
        failed: For each cell that failed, a line that names it and its error.
        written: Paths of the figures and tables.
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

    After an interruption, or if cells failed, the same call does what is left. A call that asks for other sweeps of the
    same models does what is new.

    Args:
        spec: Specification, from `read_spec` or `make_spec`.
        out: Directory of the results and figures (see `effopd.sweeps.results`).
        workers: Number of cells that are evaluated at a time, each with one thread on a CPU; by default as many as
            there are processors, or shares of GPUs. A single worker works in this process, without Ray.
        address: Address of a running Ray cluster; by default Ray is started on this machine and stopped at the end.
        gpus_per_worker: Number of GPUs that each worker gets, or a fraction so that several share one. With 0, workers
            use the CPU.
        console: Console that progress is shown on; standard output by default.

    Raises:
        CheckpointError: `out` holds a sweep of other models or settings, or no worker could be started.
        ConfigurationError: The specification does not fit the models, the teacher has another tokenizer, or there are
            no such GPUs.
        DataError: A model or task cannot be read, or another sweep is writing to `out`.
        UnsupportedError: Ray is needed and not installed.
    """
    check_workers(workers, address, gpus_per_worker)
    out = Path(out)
    plan = plan_cells(spec)
    check_teacher(spec, plan.cells)
    for task in spec.tasks:
        evaluation.load_task(task, limit=spec.limit)  # a wrong name is an error now, and not one of each cell
    settings = CellSettings(
        base=absolute_name(spec.base),
        teacher=absolute_name(spec.teacher) if spec.teacher else None,
        limit=spec.limit,
        num_samples=spec.num_samples,
        temperature=spec.temperature,
        batch_size=spec.batch_size,
        dtype=plan.identity["spec"]["dtype"],
        device="cuda" if gpus_per_worker else "cpu",
    )
    identity = {**plan.identity, "versions": {"effopd": __version__}}
    with claimed(out, SWEEP_FILE, identity, holds="a sweep", differing=differences):
        results = ResultsDirectory(out, plan)
        left = [cell for cell in plan.cells if not results.is_done(cell)]
        cells = execute(left, settings, workers=workers, address=address, gpus_per_worker=gpus_per_worker)
        try:
            with _shown(console, len(plan.cells), len(plan.cells) - len(left)) as advance, contextlib.closing(cells):
                for finished in cells:
                    results.add(finished)
                    advance(finished)
        finally:
            table = results.compact()
        written = write_sweep_report(out) if table.num_rows else []
    failed = [f"{each['what']}: {each['error']}" for each in results.failed]
    return SweepResult(out, len(plan.cells), failed, written)


def _warning(finished: FinishedCell) -> str | None:
    """Make the warning about a model whose realised update is another than the intended one; None if it is not."""
    measured = finished.outcome.measured
    if measured is None or not is_off(measured["relative_error"], measured["update_norm"]):
        return None
    error = measured["relative_error"]
    by = "although no update was intended" if error is None else f"by {error:.0%} of its norm"
    return (
        f"Warning: {finished.cell}, held in {measured['dtype']}: the realised update differs from the intended one "
        f"{by}, because of rounding. Set `dtype: float32`. Columns, tables and figures tell the error of every model; "
        "further ones are not warned of."
    )


@contextlib.contextmanager
def _shown(console: Console | None, total: int, already: int) -> Iterator[Callable[[FinishedCell], None]]:
    """Show how many cells are done: with a bar on a terminal, and elsewhere with a line a minute.

    Yields:
        Function that is called with each finished cell.
    """
    console = console or Console(highlight=False)
    start = said = time.monotonic()
    done = failures = 0
    warned = False
    with progress_bar("cells", console=console) as progress:
        task = progress.add_task("sweeping", total=total, completed=already)

        def advance(finished: FinishedCell) -> None:
            nonlocal said, done, failures, warned
            done += 1
            failures += finished.outcome.error is not None
            note = f"sweeping, {failures} failed" if failures else "sweeping"
            progress.update(task, advance=1, description=note)
            warning = None if warned else _warning(finished)
            if warning:
                warned = True
                console.print(warning, markup=False, soft_wrap=True)
            now = time.monotonic()
            if not console.is_terminal and now - said >= _SECONDS_PER_LINE:
                said, left = now, (total - already - done) * (now - start) / done
                console.print(f"{note}: {already + done}/{total} cells, {left / 60:.1f} minutes left")

        yield advance
