"""Many training runs, two at a time: workers with one thread, resuming, and CPU seconds without those of evaluation.

A benchmark describes each of its training runs by a frozen dataclass, a `TrainingRun`. Every finished run leaves
one JSON file, whose `run` holds the fields of the dataclass, so that another start of the benchmark finds what is done.
"""

import multiprocessing
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol, TypeVar

from effopd.experiments.cost_to_target import to_target
from effopd.files import read_json, write_json

NUM_WORKERS = 2
Record = dict[str, Any]


class TrainingRun(Protocol):
    """A training run: a frozen dataclass with everything that decides its outcome but the versions of the packages."""

    __dataclass_fields__: dict[str, Any]

    @property
    def name(self) -> str:
        """Name of the run's file without its suffix, which may have folders in it."""
        ...

    @property
    def expected_cost(self) -> float:
        """What the run is expected to cost, in a unit that all runs of the benchmark share."""
        ...


Run = TypeVar("Run", bound=TrainingRun)
DoRun = Callable[[Run, Path], Record]
"""Does a run in a directory of its own, and returns its record. It is called in a worker process."""


def start_worker() -> None:
    """What a worker process does once: imports, one thread, and a watch for the end of its parent."""
    import effopd.experiments.demo  # noqa: F401
    from effopd.updates import pool

    pool.start_worker()


@contextmanager
def workers() -> Iterator[ProcessPoolExecutor]:
    """Start the worker processes. An exception gives up the runs that have not begun, and waits for no others."""
    with ProcessPoolExecutor(NUM_WORKERS, multiprocessing.get_context("spawn"), initializer=start_worker) as executor:
        try:
            yield executor
        except BaseException:
            executor.shutdown(wait=False, cancel_futures=True)
            raise


def arguments_to_target(run: Any, directory: Path, **others: Any) -> tuple[Any, Any]:
    """Make the arguments of a run that ends at its target or its limit of rollouts, and keeps no checkpoints.

    Args:
        run: The run, with the fields that are read here.
        directory: Directory of the run.
        **others: Further arguments of `world_run_arguments`.
    """
    from effopd.experiments.arguments import world_run_arguments  # here, because it loads torch

    return world_run_arguments(
        directory,
        learning_rate=run.learning_rate,
        seed=run.seed,
        target_accuracy=run.target_accuracy,
        prompts_per_step=run.prompts_per_step,
        evaluation_problems=run.evaluation_problems,
        max_steps=-(-run.limit // run.prompts_per_step),
        save_steps=None,
        **others,
    )


class CPUClock:
    """CPU seconds of this process from the first step to the last, those of evaluation apart.

    Attributes:
        seconds: CPU seconds of the training loop, once it has ended.
        evaluation_seconds: CPU seconds of `trainer.evaluate` and of what was done within `apart`.
    """

    def __init__(self) -> None:
        self.seconds = self.evaluation_seconds = self._started = 0.0

    def watch(self, trainer: Any) -> None:
        """Measure the training loop and the evaluations of a trainer."""
        evaluate, loop = trainer.evaluate, trainer._inner_training_loop

        def timed_evaluate(*args: Any, **kwargs: Any) -> Any:
            with self.apart():
                return evaluate(*args, **kwargs)

        def timed_loop(*args: Any, **kwargs: Any) -> Any:
            self._started = time.process_time()
            try:
                return loop(*args, **kwargs)
            finally:
                self.seconds = self.now()

        trainer.evaluate, trainer._inner_training_loop = timed_evaluate, timed_loop

    def now(self) -> float:
        """Return the CPU seconds of the training loop so far. Not to be called within `apart`."""
        return time.process_time() - self._started - self.evaluation_seconds

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Count what is done within the context as evaluation. Not to be nested."""
        started = time.process_time()
        try:
            yield
        finally:
            self.evaluation_seconds += time.process_time() - started


def evaluations(rows: Sequence[Record]) -> list[list[Any]]:
    """Step, rollouts and accuracy of each evaluation."""
    return [[row["step"], row["rollouts"], row["accuracy"]] for row in rows if row["accuracy"] is not None]


def costs_to_target(rows: Sequence[Record], target: float, clock: CPUClock) -> Record:
    """What a record says of costs: those of `to_target`, and CPU seconds, of a run that stopped at its target."""
    result = to_target(rows, target)
    result["cpu_seconds_to_target"] = clock.seconds if result["steps_to_target"] else None
    result["spent"]["cpu_seconds_to_target"] = clock.seconds
    return result


def course(rows: Sequence[Record], clock: CPUClock, started: float) -> Record:
    """What a record says of a run's course: seconds, evaluations and extrapolations.

    Args:
        rows: Rows of the run's metrics.
        clock: Clock that watched its trainer.
        started: `time.perf_counter()` when it began.
    """
    return {
        "seconds": rows[-1]["seconds"],
        "evaluation_cpu_seconds": clock.evaluation_seconds,
        "wall_seconds_in_all": time.perf_counter() - started,
        "evaluations": evaluations(rows),
        "extrapolations": [[row["step"], row["accepted_scale"]] for row in rows if row["accepted_scale"] is not None],
    }


def finish_run(do_run: DoRun[Run], run: Run, records: Path, work: Path) -> tuple[str, str | None]:
    """Do a run and write its record, in a worker process; returns its name and, if it failed, why."""
    try:
        write_json(records / f"{run.name}.json", do_run(run, work / run.name))
    except Exception:  # the other runs go on; the parent reports it
        return run.name, traceback.format_exc()
    return run.name, None


def read_records(runs: Iterable[Run], records: Path) -> dict[str, Record]:
    """Records of those runs that are finished, by name."""
    found = {}
    for run in runs:
        path = records / f"{run.name}.json"
        if path.exists():
            found[run.name] = read_json(path)
            if type(run)(**found[run.name]["run"]) != run:
                raise SystemExit(
                    f"{path} is of other settings ({found[run.name]['run']}) than asked for ({asdict(run)}). "
                    "Choose another --out, or remove it."
                )
    return found


def do_runs(
    executor: ProcessPoolExecutor,
    do_run: DoRun[Run],
    runs: Sequence[Run],
    records: Path,
    work: Path,
    rate: float | Callable[[], float],
    in_words: Callable[[Record], str] | None = None,
) -> float | None:
    """Do what is not done yet, shortest expected first.

    Args:
        executor: Worker processes, from `workers`.
        do_run: Function that does one run, which a worker process can import.
        runs: Runs to be finished.
        records: Directory of the records.
        work: Directory for the files of the runs under way.
        rate: CPU seconds per unit of expected cost, for the first estimate; or a function that measures them.
        in_words: Function that says in one line how a run ended; by default, what reaching its target cost.

    Returns:
        The seconds per unit of expected cost that were seen with one worker; None if there was nothing to do.
    """
    finished = read_records(runs, records)
    waiting = sorted((run for run in runs if run.name not in finished), key=lambda run: run.expected_cost)
    print(f"{len(finished)} of {len(runs)} runs are finished already, {len(waiting)} to do.", flush=True)
    if not waiting:
        return None
    seen = rate() if callable(rate) else rate
    print(f"Estimate: {minutes(expected_seconds(waiting, seen))} with {NUM_WORKERS} workers.", flush=True)
    started, failures, left = time.perf_counter(), [], {run.name: run for run in waiting}
    expected_all = expected_seconds(waiting, 1.0)
    for future in as_completed([executor.submit(finish_run, do_run, run, records, work) for run in waiting]):
        name, error = future.result()
        run = left.pop(name)
        if error:
            failures.append(name)
            print(f"{name} FAILED:\n{error}", file=sys.stderr, flush=True)
            continue
        elapsed = time.perf_counter() - started
        expected_left = expected_seconds(left.values(), 1.0)
        seen = elapsed / max(expected_all - expected_left, 1.0)
        print(
            f"[{len(waiting) - len(left)}/{len(waiting)}, {minutes(elapsed)}, about "
            f"{minutes(expected_left * seen)} left] {name}: "
            f"{(in_words or describe)(read_records([run], records)[name])}",
            flush=True,
        )
    if failures:
        raise SystemExit(f"{len(failures)} runs failed: {', '.join(failures)}. The same command tries them again.")
    return seen


def expected_seconds(runs: Iterable[TrainingRun], rate: float) -> float:
    """Expected wall time of the runs with all workers, at a rate in seconds per unit of expected cost."""
    return sum(run.expected_cost for run in runs) * rate / NUM_WORKERS


def describe(record: Record) -> str:
    """Say in one line what reaching the target cost a run."""
    cpu = record["spent"]["cpu_seconds_to_target"]
    if record["steps_to_target"] is None:
        accuracy = "before any evaluation" if record["final_accuracy"] is None else f"at {record['final_accuracy']:.3f}"
        return f"{'diverged' if record.get('diverged') else 'censored'} {accuracy}, {cpu:.0f} s of CPU"
    cpu = record["cpu_seconds_to_target"]
    return f"{record['steps_to_target']} steps, {record['rollouts_to_target']:,} rollouts, {cpu:.0f} s of CPU"


def minutes(seconds: float) -> str:
    """Write a duration."""
    return f"{seconds / 60:.1f} min"
