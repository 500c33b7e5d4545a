"""Measuring every parameter of every checkpoint of some runs, so that an interrupted analysis can be continued.

First comes the plan, a job for every parameter of every checkpoint; then worker processes of one thread each do the
jobs. A finished job is a line of `progress.jsonl`, which is written after the job's singular vectors: when the same
analysis is started again, only jobs without a line are left. docs/analysis.md describes the files.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

import torch
from safetensors import SafetensorError, safe_open

from effopd.checkpoints import open_pair
from effopd.checkpoints.writer import save_tensors as write_tensors
from effopd.checks import check_whole
from effopd.errors import CheckpointError
from effopd.files import replaced
from effopd.models.device import choose_device
from effopd.run_directory import FinishedPieces, claimed
from effopd.updates.gram import Precision
from effopd.updates.measure import UpdateSource, displacement, measure_parameter
from effopd.updates.plan import Job, Runs, differences, plan_jobs
from effopd.updates.pool import one_thread_each

ANALYSIS_FILE, PROGRESS, SUBSPACES = "analysis.json", "progress.jsonl", "subspaces"

Row = dict[str, Any]


def measure_runs(
    base: str | Path,
    runs: Runs,
    out: Path,
    *,
    ignore: Sequence[str] = (),
    workers: int = 1,
    device: str = "cpu",
    precision: Precision = "float64",
    on_start: Callable[[int, int, float], None] = lambda done, total, cost: None,
    on_job: Callable[[float], None] = lambda cost: None,
) -> list[Row]:
    """Measure every parameter of every checkpoint, except for what an earlier call has measured in the same directory.

    Args:
        base: Directory or hub name of the model that the runs started from.
        runs: For each name of a run, what `effopd.checkpoints.find_checkpoints` takes.
        out: Directory of the analysis.
        ignore: Regular expressions of parameter names to leave out.
        workers: Number of processes, each with one thread. It does not count on a GPU, which one process keeps busy.
        device: Device that computes: `cpu`, or a CUDA device.
        precision: Precision of the spectra (see `effopd.updates.spectrum`).
        on_start: Function that is called with the number of jobs that are done already, the number of all, and the
            cost of those that are left.
        on_job: Function that is called with the cost of each job when it is done.

    Returns:
        Records as mappings (see `UpdateRecord`), in the order of runs, checkpoints and layers.

    Raises:
        CheckpointError: `out` holds another analysis or something else, or a worker was killed.
        ConfigurationError: A run's name cannot name a directory, `workers` is less than one, there is no such device,
            a pattern of `ignore` matches nothing, or nothing is left to analyse.
        DataError: A model cannot be read, or does not match the base; or another analysis is writing to `out`.
    """
    check_whole("workers", workers, 1)
    choose_device(device)
    torch.backends.cuda.matmul.allow_tf32 = False  # its ten bits are too few for the float32 product
    plan, jobs = plan_jobs(base, runs, out, ignore, precision, device)
    with claimed(out, ANALYSIS_FILE, plan, holds="an analysis", differing=differences):
        pieces = FinishedPieces(out / PROGRESS)
        rows = (row for row in pieces.rows if _has_its_vectors(out, row))
        done = {(row["run"], row["checkpoint"], row["parameter"]): row for row in rows}
        left = sorted((job for job in jobs if job.key not in done), key=lambda job: -job.cost)
        on_start(len(jobs) - len(left), len(jobs), sum(job.cost for job in left))
        with _working(1 if device != "cpu" else workers) as work:
            for job, record in work(left):
                done[job.key] = record
                pieces.add(record)
                on_job(job.cost)
    return [done[job.key] for job in jobs]


_open_pair = lru_cache(maxsize=16)(open_pair)  # one job after the other reads the same checkpoints


def do_job(job: Job) -> Row:
    """Measure one parameter, write its singular vectors if it is a matrix, and return its record."""
    pairs = [_open_pair(job.base, directory, job.ignore) for directory in job.directories]
    found = measure_parameter(
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
        sources: list[UpdateSource | None] = [*pairs] if len(pairs) == 3 else [None, *pairs]
        norm, cosine = displacement(sources, job.parameter, job.size)
    if found.spectrum and found.vectors:
        tensors = {
            "left": found.vectors.left.float(),
            "right": found.vectors.right.float(),
            "relative_gap": found.vectors.relative_gap,
            "singular_values": found.spectrum.singular_values,
            "rank": torch.tensor(found.spectrum.rank),
        }
        save_tensors(tensors, vectors_file(job.out, job.run, job.checkpoint, job.parameter))
    return asdict(replace(found.record, displacement_norm=norm, displacement_cosine=cosine))


def vectors_file(out: Path, run: str, checkpoint: int, parameter: str) -> Path:
    """Name the file of a matrix's leading singular vectors."""
    return out / SUBSPACES / run / f"checkpoint-{checkpoint}" / (quote(parameter, safe="[]") + ".safetensors")


def save_tensors(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """Write a safetensors file, which is never there in part.

    Raises:
        OSError: The file cannot be written, for instance because the disk is full.
    """
    with replaced(path) as temporary:
        write_tensors({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, temporary)


def _has_its_vectors(out: Path, row: Row) -> bool:
    """Tell whether the singular vectors of a finished job can be read; only a matrix has any."""
    if not row["route"]:
        return True
    try:
        with safe_open(vectors_file(out, row["run"], row["checkpoint"], row["parameter"]), framework="pt"):
            return True
    except (OSError, SafetensorError):
        return False


@contextlib.contextmanager
def _working(workers: int) -> Iterator[Callable[[Sequence[Job]], Iterable[tuple[Job, Row]]]]:
    """Yield a function that does jobs, and that yields each job with its record as soon as it is finished."""
    if workers == 1:
        yield lambda jobs: ((job, do_job(job)) for job in jobs)
        return
    with one_thread_each(workers) as executor:

        def work(jobs: Sequence[Job]) -> Iterator[tuple[Job, Row]]:
            futures: dict[Future[Row], Job] = {executor.submit(do_job, job): job for job in jobs}
            for future in as_completed(futures):
                yield futures.pop(future), future.result()

        try:
            yield work
        except BrokenProcessPool as error:
            raise CheckpointError(
                "A worker process was killed, most likely because memory ran out: each takes up to 1 GB. "
                "The same command continues; give it fewer --workers."
            ) from error
