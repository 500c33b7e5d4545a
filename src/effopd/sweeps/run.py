"""`effopd sweep`: plan the cells, evaluate them, gather their results, and draw the figures."""

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from effopd import __version__
from effopd.checks import check_whole
from effopd.evaluation.dataset_rows import SUFFIXES
from effopd.evaluation.resume import problem_rows, task_digest
from effopd.evaluation.settings import TaskSettings
from effopd.evaluation.task import Task
from effopd.files import expanded, write_json_lines
from effopd.models.find import absolute_name
from effopd.report.sweep import write_sweep_report
from effopd.run_directory import claimed
from effopd.sweeps.cells import SweepPlan, plan_cells
from effopd.sweeps.estimate import describe_work
from effopd.sweeps.execute import check_workers, execute, num_workers
from effopd.sweeps.progress import SweepProgress
from effopd.sweeps.results import PROBLEMS, SWEEP_FILE, ResultsDirectory, differences, with_earlier_problems
from effopd.sweeps.spec import SweepSpec
from effopd.sweeps.teacher import check_teacher
from effopd.sweeps.tokenizers import check_prompts
from effopd.sweeps.worker import CellSettings


class SweepResult(NamedTuple):
    """How a sweep ended.

    Attributes:
        directory: Directory of the results.
        num_cells: Number of cells of the whole sweep.
        num_left: Number of cells that were not evaluated, because of a limit.
        failed: For each cell that failed, a line that names it and its error.
        written: Paths of the figures and tables.
    """

    directory: Path
    num_cells: int
    num_left: int
    failed: list[str]
    written: list[Path]


def prepare(spec: SweepSpec) -> tuple[SweepPlan, dict[str, TaskSettings], dict[str, Task]]:
    """Plan the cells, load the tasks, and check that they, the models and the teacher go together; write nothing.

    Returns:
        The plan; and how each task is put to a model, and its problems, by its name.

    Raises:
        ConfigurationError: The specification does not fit the models, or the teacher has another tokenizer.
        DataError: A model or task cannot be read.
    """
    plan = plan_cells(spec)
    check_teacher(spec, plan.cells)
    asked = {name: _anywhere(each) for name, each in spec.task_settings().items()}
    tasks = {name: each.load() for name, each in asked.items()}
    check_prompts(spec.base, plan.cells, tasks)
    return plan, asked, tasks


def sweep(
    spec: SweepSpec,
    out: str | Path,
    *,
    workers: int | None = None,
    address: str | None = None,
    gpus_per_worker: float = 0.0,
    limit_cells: int | None = None,
    console: Console | None = None,
) -> SweepResult:
    """Evaluate every cell of a specification, and draw its figures.

    After an interruption, or if cells failed, the same call does what is left. A call that asks for other sweeps of the
    same models does what is new. The cells that show the course of every curve come first, and an interrupted call
    draws the figures of what is finished.

    Args:
        spec: Specification, from `read_spec` or `make_spec`.
        out: Directory of the results and figures (see `effopd.sweeps.results`).
        workers: Number of cells that are evaluated at a time, each with one thread on a CPU; by default as many as
            there are processors, or shares of GPUs. A single worker works in this process, without Ray.
        address: Address of a running Ray cluster; by default Ray is started on this machine and stopped at the end.
        gpus_per_worker: Number of GPUs that each worker gets, or a fraction so that several share one. With 0, workers
            use the CPU.
        limit_cells: Number of cells after which this call ends, at least 0; None evaluates all that are left. With 0,
            everything is checked, and what is left is said.
        console: Console that progress is shown on; standard output by default.

    Raises:
        CheckpointError: `out` holds a sweep of other models or settings, or no worker could be started.
        ConfigurationError: The specification does not fit the models, the teacher has another tokenizer, or there are
            no such GPUs.
        DataError: A model or task cannot be read, or another sweep is writing to `out`.
        UnsupportedError: Ray is needed and not installed.
    """
    check_workers(workers, address, gpus_per_worker)
    if limit_cells is not None:
        check_whole("limit_cells", limit_cells, 0)
    out, console = Path(out), console or Console(highlight=False)
    plan, asked, tasks = prepare(spec)
    problems = {name: task_digest(task) for name, task in tasks.items()}
    settings = CellSettings(
        base=absolute_name(spec.base),
        teacher=absolute_name(spec.teacher) if spec.teacher else None,
        tasks=asked,
        backend=spec.backend,
        engine=spec.engine or {},
        completions=spec.completions,
        dtype=plan.identity["spec"]["dtype"],
        device="cuda" if gpus_per_worker else "cpu",
    )
    identity = {
        **plan.identity,
        "problems": problems,
        "num_cells": len(plan.cells),
        "versions": {"effopd": __version__},
    }
    identity = with_earlier_problems(out, identity)
    with claimed(out, SWEEP_FILE, identity, holds="a sweep", differing=differences):
        for name, task in tasks.items():
            write_json_lines(out / PROBLEMS / f"{problems[name]}.jsonl", problem_rows(task))
        results = ResultsDirectory(out, plan)
        left = [cell for cell in plan.cells if not results.is_done(cell)]
        chosen = sorted(left, key=lambda cell: not cell.deciding)[:limit_cells]
        size = num_workers(workers, address, gpus_per_worker)
        shown = SweepProgress(console, len(plan.cells), left, chosen, results.table.to_pylist(), size)
        if left:
            console.print(describe_work(left, asked, tasks), soft_wrap=True)
            shown.say_time()
        cells = execute(chosen, settings, workers=workers, address=address, gpus_per_worker=gpus_per_worker)
        written: list[Path] = []
        try:
            with shown.running() as advance, contextlib.closing(cells):
                for finished in cells:
                    results.add(finished)
                    advance(finished)
        finally:  # also after an interruption
            if results.compact().num_rows:
                written = write_sweep_report(out)
    failed = [f"{each['what']}: {each['error']}" for each in results.failed]
    return SweepResult(out, len(plan.cells), len(left) - len(chosen), failed, written)


def _anywhere(asked: TaskSettings) -> TaskSettings:
    """Make paths absolute, for workers in other working directories."""
    data = asked.data and str(expanded(asked.data).resolve())
    is_file = asked.task.endswith(SUFFIXES)
    return replace(asked, data=data, task=str(expanded(asked.task).resolve()) if is_file else asked.task)
