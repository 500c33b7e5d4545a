"""Every matrix of every checkpoint is a job; finished jobs are kept (layout: docs/analysis.md).

First the plan, then worker processes of one thread each. A finished job is a line of `progress.jsonl`, written after
its vectors: a second start of the same analysis does only what has no line.
"""

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

import torch
from safetensors import SafetensorError, safe_open

from effopd import __version__
from effopd.checkpoints import Checkpoint, Pair, find_checkpoints, open_pair
from effopd.checkpoints.model import weight_files
from effopd.checkpoints.writer import save_tensors as write_tensors
from effopd.errors import CheckpointError, ConfigurationError, listing
from effopd.files import (
    NOT_IN_NAMES,
    append_json_line,
    can_name_a_file,
    files_digest,
    locked,
    read_json,
    read_json_lines,
    write_json,
    write_json_lines,
)
from effopd.updates.gram import Precision
from effopd.updates.measure import Source, displacement, measure, parameters
from effopd.updates.pool import one_thread_each

PLAN, PROGRESS, SUBSPACES = "analysis.json", "progress.jsonl", "subspaces"
_LONGEST_NAME = 200  # bytes


@dataclass(frozen=True)
class Job:
    """One parameter of one checkpoint.

    Attributes:
        run: Name of the run.
        checkpoint: Index in the run.
        step: Optimizer steps taken, if known.
        parameter: Name.
        size: Rows and columns.
        cost: Arithmetic, roughly: to start the long ones first, and for the time left.
        base: Directory of the base.
        directories: The last of them is the checkpoint; before it, as many as there are of the two before.
        ignore: Patterns of names that are left out.
        out: Directory of the analysis.
        precision: Of the spectrum.
        device: Where it is decomposed.
    """

    run: str
    checkpoint: int
    step: int | None
    parameter: str
    size: tuple[int, int]
    cost: float
    base: Path
    directories: tuple[Path, ...]
    ignore: tuple[str, ...]
    out: Path
    precision: Precision
    device: str

    @property
    def key(self) -> tuple[str, int, str]:
        """What tells it from all others of the analysis."""
        return self.run, self.checkpoint, self.parameter


_open_pair = lru_cache(maxsize=16)(open_pair)  # in a worker: checkpoints recur from job to job


def do_job(job: Job) -> dict[str, Any]:
    """Measure one parameter, write its vectors, and return its record."""
    pairs = [_open_pair(job.base, directory, job.ignore) for directory in job.directories]
    found = measure(
        pairs[-1],
        job.parameter,
        job.size,
        run=job.run,
        checkpoint=job.checkpoint,
        step=job.step,
        precision=job.precision,
        device=job.device,
    )
    norm, cosine = found.record.frobenius_norm, None
    if len(pairs) > 1:
        sources: list[Source | None] = [*pairs] if len(pairs) == 3 else [None, *pairs]
        norm, cosine = displacement(sources, job.parameter, job.size)
    if found.spectrum and found.vectors:
        tensors = {
            "left": found.vectors.left.float(),
            "right": found.vectors.right.float(),
            "relative_gap": found.vectors.relative_gap,
            "singular_values": found.spectrum.singular_values,
        }
        save_tensors(tensors, vectors_file(job.out, job.run, job.checkpoint, job.parameter))
    return asdict(replace(found.record, displacement_norm=norm, displacement_cosine=cosine))


def _cost(pair: Pair, name: str, size: tuple[int, int]) -> float:
    long, short = max(size), min(size)
    return long * short * (200.0 + (short if name in pair.matrices else 0))


def vectors_file(out: Path, run: str, checkpoint: int, parameter: str) -> Path:
    """Where the leading singular vectors of a matrix are."""
    return out / SUBSPACES / run / f"checkpoint-{checkpoint}" / (quote(parameter, safe="[]") + ".safetensors")


def measure_runs(
    base: str | Path,
    runs: Mapping[str, str | Path | Sequence[str | Path]],
    out: Path,
    *,
    ignore: Sequence[str] = (),
    workers: int = 1,
    device: str = "cpu",
    precision: Precision = "float64",
    on_start: Callable[[int, int, float], None] = lambda done, total, cost: None,
    on_job: Callable[[float], None] = lambda cost: None,
) -> list[dict[str, Any]]:
    """Measure every parameter of every checkpoint; what an earlier start has finished is not done again.

    Args:
        base: Directory or hub name of the model that the runs started from.
        runs: By name: what `effopd.checkpoints.find_checkpoints` takes.
        out: Directory of the analysis.
        ignore: Regular expressions of parameter names to leave out.
        workers: Processes, of one thread each; ignored on a GPU, which one process keeps busy.
        device: `cpu`, or a CUDA device.
        precision: See `effopd.updates.spectrum`.
        on_start: Told how many jobs are done already, how many there are, and the cost of those to do.
        on_job: Told the cost of a job when it is done.

    Returns:
        Records as mappings, in the order of runs, checkpoints and layers.

    Raises:
        CheckpointError: `out` holds another analysis.
        ConfigurationError: A run's name cannot name a directory, `workers` is less than one, there is no such device,
            a pattern of `ignore` matches nothing, or nothing is left to analyse.
        DataError: A model cannot be read, or does not match the base, or another analysis is writing to `out`.
    """
    if workers < 1:
        raise ConfigurationError(f"Got {workers} workers; expected at least 1.")
    _check_device(device)
    plan, jobs = _plan(base, runs, out, ignore, precision, device)
    if out.exists() and not out.is_dir():
        raise CheckpointError(f"{out} is a file; expected a directory. Choose another --out.")
    with locked(out):
        done = _continue(out, plan)
        left = sorted((job for job in jobs if job.key not in done), key=lambda job: -job.cost)
        on_start(len(jobs) - len(left), len(jobs), sum(job.cost for job in left))
        with _working(1 if device != "cpu" else workers) as work:
            for job, record in work(left):
                done[job.key] = record
                append_json_line(out / PROGRESS, record)
                on_job(job.cost)
    return [done[job.key] for job in jobs]


def _check_device(device: str) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigurationError(
            f"Got device {device!r}, which does not work: {reason} Expected cpu or cuda."
        ) from error
    torch.backends.cuda.matmul.allow_tf32 = False  # ten bits would not do for the float32 product


def _plan(
    base: str | Path,
    runs: Mapping[str, str | Path | Sequence[str | Path]],
    out: Path,
    ignore: Sequence[str],
    precision: Precision,
    device: str,
) -> tuple[dict[str, Any], list[Job]]:
    """What will be in `analysis.json`, and every job."""
    jobs: list[Job] = []
    described: list[dict[str, Any]] = []
    skipped: dict[str, None] = {}
    unknown: dict[str, None] = {}
    base_directory: Path | None = None
    for run, path in runs.items():
        if not can_name_a_file(run, _LONGEST_NAME):
            raise ConfigurationError(
                f"Got the run name {run[:60]!r}; expected one that can name a directory: at most {_LONGEST_NAME} bytes,"
                f" no dot in front, no line break and none of {NOT_IN_NAMES} in it."
            )
        checkpoints = find_checkpoints(path)
        pairs = [open_pair(base, checkpoint.directory, ignore) for checkpoint in checkpoints]
        base_directory = pairs[0].base.directory
        described.append({"name": run, "checkpoints": [_describe(checkpoint) for checkpoint in checkpoints]})
        for index, (checkpoint, pair) in enumerate(zip(checkpoints, pairs, strict=True)):
            skipped |= dict.fromkeys(pair.ignored)
            unknown |= dict.fromkeys(pair.other)
            recent = tuple(found.directory for found in checkpoints[max(0, index - 2) : index + 1])
            for name, size in parameters(pair).items():
                shared = (_cost(pair, name, size), base_directory, recent, tuple(ignore), out, precision, device)
                jobs.append(Job(run, index, checkpoint.step, name, size, *shared))
    if base_directory is None:
        raise ConfigurationError("Got no run to analyse; expected at least one, NAME=DIR.")
    idle = [pattern for pattern in ignore if not any(re.search(pattern, name) for name in skipped)]
    if idle:
        names = [*skipped, *dict.fromkeys(job.parameter for job in jobs)]
        raise ConfigurationError(
            f"ignore: no tensor's name matches {', '.join(map(repr, idle))}; the names begin {listing(names, 3)}. "
            "Correct the pattern, or leave it out."
        )
    if not jobs:
        why = "the patterns to ignore leave no tensor" if skipped else "the models hold no floating-point tensor"
        raise ConfigurationError(f"Got nothing to analyse: {why}. Give narrower patterns, or other models.")
    plan = {
        "base": str(base_directory),
        "runs": described,
        "settings": {"ignore": list(ignore), "precision": precision},
        "ignored": list(skipped),
        "unknown": list(unknown),
        "versions": {"effopd": __version__, "torch": torch.__version__},
    }
    return plan, jobs


def _describe(checkpoint: Checkpoint) -> dict[str, Any]:
    """A checkpoint, with a hash of its files' names, sizes and times, so that another in its place is noticed."""
    files = files_digest(weight_files(checkpoint.directory))
    return {"step": checkpoint.step, "directory": str(checkpoint.directory), "files": files}


def _continue(out: Path, plan: dict[str, Any]) -> dict[tuple[str, int, str], dict[str, Any]]:
    """Records finished by an earlier start of the same analysis; writes the plan if there was none.

    A run that has grown by checkpoints since, and runs that were added, are continued too. A matrix whose vectors are
    gone or damaged counts as not measured.
    """
    path = out / PLAN
    if not path.exists():
        if any(out.iterdir()):
            raise CheckpointError(f"{out} is not empty and holds no analysis. Choose another --out, or an empty one.")
    else:
        earlier = read_json(path)
        now = {run["name"]: run["checkpoints"] for run in plan["runs"]}
        before = {run["name"]: run["checkpoints"] for run in earlier["runs"]}
        same = all(earlier[key] == plan[key] for key in ("base", "settings"))
        if not same or any(now.get(name, [])[: len(found)] != found for name, found in before.items()):
            raise CheckpointError(
                f"{out} holds an analysis of other models or settings, or of files that have changed since (see "
                f"{path}). Choose another --out, or remove that one."
            )
    write_json(path, plan)
    progress = out / PROGRESS
    rows = read_json_lines(progress) if progress.exists() else []
    if progress.exists() and not progress.read_bytes().endswith(b"\n"):
        write_json_lines(progress, rows)  # or the next line would be appended to the fragment
    return {(row["run"], row["checkpoint"], row["parameter"]): row for row in rows if _is_whole(out, row)}


def _is_whole(out: Path, row: Mapping[str, Any]) -> bool:
    """Whether the vectors are there, if the record is of a matrix."""
    if not row["route"]:
        return True
    try:
        with safe_open(vectors_file(out, row["run"], row["checkpoint"], row["parameter"]), framework="pt"):
            return True
    except (OSError, SafetensorError):
        return False


@contextlib.contextmanager
def _working(workers: int) -> Iterator[Callable[[Sequence[Job]], Iterable[tuple[Job, dict[str, Any]]]]]:
    """Gives a function that does jobs and yields each with its record as it is finished."""
    if workers == 1:
        yield lambda jobs: ((job, do_job(job)) for job in jobs)
        return
    with one_thread_each(workers) as executor:

        def work(jobs: Sequence[Job]) -> Iterator[tuple[Job, dict[str, Any]]]:
            futures: dict[Future[dict[str, Any]], Job] = {executor.submit(do_job, job): job for job in jobs}
            for future in as_completed(futures):
                yield futures.pop(future), future.result()

        try:
            yield work
        except BrokenProcessPool as error:
            raise CheckpointError(
                "A worker process was killed, most likely for want of memory: each takes up to 1 GB. "
                "The same command continues; give it fewer --workers."
            ) from error


def save_tensors(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """Write a safetensors file atomically.

    Raises:
        OSError: It cannot be written, the disk being full for instance.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    write_tensors({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, temporary)
    temporary.replace(path)
