"""Evaluating cells with workers: one in this process, or several on Ray.

`execute` yields the finished cells in both cases. On Ray, every worker is an actor of its own. When one dies, with its
process or with its node, another worker does the cell again that it was evaluating.
"""

import contextlib
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Generator, Iterable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import torch

from effopd.checks import check_number, check_whole
from effopd.errors import CheckpointError, ConfigurationError, UnsupportedError
from effopd.sweeps.cells import Cell, Resident
from effopd.sweeps.queue import MAX_LOSSES, CellQueue
from effopd.sweeps.worker import CellOutcome, CellSettings, Worker

START_SECONDS = 300.0
MAX_FAILED_STARTS = 5
_OBJECT_STORE_BYTES = 100 * 2**20  # enough for rows of numbers; by default, Ray takes 30 % of the memory


class FinishedCell(NamedTuple):
    """A cell that is done or has failed for good, with its outcome and the number of the attempt."""

    cell: Cell
    outcome: CellOutcome
    attempt: int


def execute(
    cells: Iterable[Cell],
    settings: CellSettings,
    *,
    workers: int | None = None,
    address: str | None = None,
    gpus_per_worker: float = 0.0,
) -> Generator[FinishedCell, None, None]:
    """Evaluate cells, in an order in which few checkpoints have to be loaded twice.

    Args:
        cells: Cells to evaluate.
        settings: Settings that the cells share.
        workers: Number of cells that are evaluated at a time; by default as many as there is room for, on this machine
            or in the cluster. A single worker works in this process, without Ray, unless there is an address.
        address: Address of a running Ray cluster: `auto`, `HOST:PORT`, or `ray://HOST:PORT`. By default Ray is started
            on this machine, and stopped at the end.
        gpus_per_worker: Number of GPUs that each worker gets, or a fraction so that several share one.

    Yields:
        Cells as they are finished.

    Raises:
        CheckpointError: No worker could be started, or none found a place for five minutes.
        ConfigurationError: An argument is wrong (see `check_workers`), or there is no cluster at the address.
        UnsupportedError: Ray is needed and not installed.
    """
    check_workers(workers, address, gpus_per_worker)
    queue = CellQueue(cells)
    if address is None:
        workers = num_workers(workers, address, gpus_per_worker)
    if workers == 1 and address is None:
        yield from _in_process(queue, Worker(settings))
    elif len(queue):
        ray = import_ray()
        with connected(ray, workers, address):
            size = workers or _room_in(ray.cluster_resources(), gpus_per_worker)
            yield from _Pool(ray, queue, settings, size, gpus_per_worker).run()


def check_workers(workers: int | None, address: str | None, gpus_per_worker: float) -> None:
    """Check what can be checked before Ray is started.

    The arguments are those of `execute`.

    Raises:
        ConfigurationError: Fewer than one worker, a negative number of GPUs, or GPUs where this process has none.
    """
    if workers is not None:
        check_whole("workers", workers, 1)
    check_number("gpus_per_worker", gpus_per_worker, low=0)
    ray = sys.modules.get("ray")
    on_cluster = address is not None or ((workers or 1) > 1 and ray is not None and ray.is_initialized())
    if gpus_per_worker and not on_cluster and not torch.cuda.is_available():
        raise ConfigurationError(
            f"Got {gpus_per_worker:g} GPUs per worker, and torch {torch.__version__} finds no CUDA device on this "
            "machine. Leave --gpus-per-worker out to work on the CPU, or name a cluster with --address."
        )


def num_workers(workers: int | None, address: str | None, gpus_per_worker: float) -> int:
    """Return the number of workers; 1 if it depends on a cluster that is not connected yet.

    The arguments are those of `execute`.
    """
    return workers or (_room_here(gpus_per_worker) if address is None else 1)


def _room_here(gpus_per_worker: float) -> int:
    if gpus_per_worker:
        return max(1, int(torch.cuda.device_count() / gpus_per_worker))
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _room_in(resources: dict[str, float], gpus_per_worker: float) -> int:
    rooms = [resources.get("CPU", 0.0)] + ([resources.get("GPU", 0.0) / gpus_per_worker] if gpus_per_worker else [])
    return max(1, int(min(rooms)))


def _settled(queue: CellQueue, cell: Cell, outcome: CellOutcome, attempt: int) -> Iterator[FinishedCell]:
    """Yield the finished cell, unless it failed and will be tried again."""
    if outcome.error is None or not queue.failed(cell):
        yield FinishedCell(cell, outcome, attempt)


def _in_process(queue: CellQueue, worker: Worker) -> Iterator[FinishedCell]:
    resident: Resident | None = None
    while (cell := queue.take(resident)) is not None:
        resident, attempt = cell.resident, queue.attempt(cell)
        yield from _settled(queue, cell, worker.attempt(cell), attempt)


def import_ray() -> Any:
    """Import Ray.

    Raises:
        UnsupportedError: It is not installed.
    """
    # Ray reads these when it is imported: it sends no reports to its makers, and it leaves the variables that choose
    # GPUs alone in actors that have none.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError as error:
        raise UnsupportedError(
            "Several workers, or a cluster, need Ray, which is not installed. Install it, `pip install 'effopd[ray]'` "
            "or `pip install ray`; or take --workers 1, which needs none."
        ) from error
    return ray


@contextlib.contextmanager
def connected(ray: Any, workers: int | None, address: str | None) -> Iterator[None]:
    """Connect to Ray until the block ends: to the caller's own session, a cluster, or a session started here.

    Args:
        ray: The module, from `import_ray`.
        workers: Number of CPUs of a session that is started here; None takes all of this machine's.
        address: Address of a running cluster; None starts a session here.

    Raises:
        ConfigurationError: There is no cluster at the address.
    """
    if ray.is_initialized():
        yield
        return
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    terminate = signal.getsignal(signal.SIGTERM)
    if address is None:
        local = {"num_cpus": workers, "include_dashboard": False, "object_store_memory": _OBJECT_STORE_BYTES}
        ray.init(**local, **quiet)
    else:
        try:
            _check_reachable(address)
            ray.init(address=address, **quiet)
        except (OSError, ValueError, RuntimeError) as error:
            raise ConfigurationError(
                f"There is no Ray cluster at {address!r} ({error}). Start one with `ray start --head`, or leave "
                "--address out."
            ) from error
    if callable(terminate) and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, terminate)  # Ray has set a handler, after which nothing could be cleared away
    try:
        yield
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Raise OSError if nobody listens at `HOST:PORT`, because Ray itself would try for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=10).close()


class _Actor:
    """A worker process.

    Attributes:
        handle: Ray's handle of the actor.
        cell: Cell that the worker is evaluating; None while it evaluates none.
        attempt: Number of the attempt at that cell.
        resident: Checkpoint that the worker holds, as far as is known.
    """

    def __init__(self, handle: Any) -> None:
        self.handle = handle
        self.cell: Cell | None = None
        self.attempt = 0
        self.resident: Resident | None = None


class _Pool:
    """The workers of a sweep. Each has a call under way, whose reference is in `_calls`, or is idle.

    Only workers that have answered get cells, so that a worker that waits for a place in the cluster keeps none.
    """

    def __init__(self, ray: Any, queue: CellQueue, settings: CellSettings, size: int, gpus_per_worker: float) -> None:
        self._ray, self._queue, self._size = ray, queue, size
        self._settings = replace(settings, one_thread=settings.device == "cpu")
        environment = {"env_vars": {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}}
        options = {"num_cpus": 1, "num_gpus": gpus_per_worker, "max_restarts": 0, "runtime_env": environment}
        self._make = ray.remote(Worker).options(**options).remote
        self._calls: dict[Any, _Actor] = {}
        self._idle: list[_Actor] = []
        self._failed_starts = 0
        self._last_sign = time.monotonic()

    def run(self) -> Iterator[FinishedCell]:
        """Yield cells until all are finished."""
        try:
            while self._num_left:
                self._hand_out()
                finished, _ = self._ray.wait(list(self._calls), num_returns=1, timeout=1.0)
                for reference in finished:
                    yield from self._settle(reference)
                self._check_progress()
        finally:
            for actor in (*self._calls.values(), *self._idle):
                self._ray.kill(actor.handle)

    @property
    def _num_left(self) -> int:
        return len(self._queue) + sum(actor.cell is not None for actor in self._calls.values())

    def _hand_out(self) -> None:
        """Give idle workers cells, and start as many workers as there is work for."""
        while self._idle and len(self._queue):
            actor = self._idle.pop()
            others = [other.resident for other in (*self._calls.values(), *self._idle)]
            cell = self._queue.take(actor.resident, others)
            assert cell is not None
            actor.cell, actor.attempt, actor.resident = cell, self._queue.attempt(cell), cell.resident
            self._calls[actor.handle.attempt.remote(cell)] = actor
        while len(self._calls) + len(self._idle) < min(self._size, self._num_left):
            actor = _Actor(self._make(self._settings))
            self._calls[actor.handle.ready.remote()] = actor

    def _settle(self, reference: Any) -> Iterator[FinishedCell]:
        """Take the result of a call, which has ended."""
        actor = self._calls.pop(reference)
        try:
            outcome = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            self._ray.kill(actor.handle)  # it may only be out of reach
            yield from self._lose(actor, error)
            return
        cell, actor.cell = actor.cell, None
        self._failed_starts = 0
        self._idle.append(actor)
        if cell is not None:
            yield from _settled(self._queue, cell, outcome, actor.attempt)

    def _lose(self, actor: _Actor, error: Exception) -> Iterator[FinishedCell]:
        """Put the cell of a dead worker back."""
        error = getattr(error, "cause", None) or error  # the cause is what the worker itself has raised
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        if actor.cell is None:
            self._failed_starts += 1
            if self._failed_starts == MAX_FAILED_STARTS:
                raise CheckpointError(
                    f"{MAX_FAILED_STARTS} workers in a row died before their first cell; the last: {reason}. Is effopd "
                    "installed on every node? What was finished is kept; the same command continues."
                ) from error
        elif not self._queue.lost(actor.cell):
            text = f"its worker died {MAX_LOSSES} times, most likely because memory ran out; the last time: {reason}"
            yield FinishedCell(actor.cell, CellOutcome(None, text), actor.attempt)

    def _check_progress(self) -> None:
        """Raise an error if cells are left, and no worker has found a place for a long time."""
        if self._idle or any(actor.cell for actor in self._calls.values()):
            self._last_sign = time.monotonic()
        elif self._num_left and time.monotonic() - self._last_sign > START_SECONDS:
            raise CheckpointError(
                f"No worker has found a place in the Ray cluster for {START_SECONDS:g} seconds: each takes 1 CPU and "
                "the GPUs of --gpus-per-worker. See `ray status`. What was finished is kept; the same command goes on."
            )
