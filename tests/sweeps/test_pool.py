"""The pool of workers against a stand-in for Ray, whose workers die on purpose."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from effopd.errors import CheckpointError, UnsupportedError
from effopd.sweeps import Cell, execute
from effopd.sweeps.execute import FinishedCell
from effopd.sweeps.worker import CellOutcome, CellSettings, Worker


class WorkerDiedError(Exception):
    """What Ray raises when a worker has died."""


class FakeRay:
    """Workers of one process. `behave(worker, cell)` gives what one answers, raises, or returns None to hang for ever.

    A cell of None is the worker's start.
    """

    exceptions = SimpleNamespace(RayError=WorkerDiedError)

    def __init__(self, behave: Callable[[int, Cell | None], Any]) -> None:
        self.behave, self.num_workers, self.alive = behave, 0, set[int]()

    def is_initialized(self) -> bool:
        return True

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 2.0, "GPU": 1.0}

    def remote(self, worker: type) -> Any:
        return SimpleNamespace(options=lambda **options: SimpleNamespace(remote=self._start))

    def wait(self, references: list[Any], num_returns: int, timeout: float) -> tuple[list[Any], list[Any]]:
        ready = [each for each in references if self._call(each) is not None]
        return ready[:num_returns], []

    def get(self, reference: Any) -> Any:
        found = self._call(reference)
        if isinstance(found, WorkerDiedError):
            raise found
        return found

    def kill(self, handle: Any) -> None:
        self.alive.discard(handle.number)

    def _start(self, settings: CellSettings) -> Any:
        self.num_workers += 1
        number = self.num_workers
        self.alive.add(number)

        def call(cell: Cell | None = None) -> Any:
            return SimpleReference(number, cell)

        return SimpleNamespace(number=number, ready=SimpleNamespace(remote=call), attempt=SimpleNamespace(remote=call))

    def _call(self, reference: Any) -> Any:
        try:
            return self.behave(reference.worker, reference.cell)
        except WorkerDiedError as death:
            return death


class SimpleReference:
    """To what a worker will answer."""

    def __init__(self, worker: int, cell: Cell | None) -> None:
        self.worker, self.cell = worker, cell


def cells(count: int) -> list[Cell]:
    return [
        Cell("A", 0, 0, None, Path("x"), ({"scale": {"alpha": number}},), "world", 0, False, ())
        for number in range(count)
    ]


def work(
    monkeypatch: pytest.MonkeyPatch, behave: Callable[[int, Cell | None], Any], count: int = 4
) -> list[FinishedCell]:
    ray = FakeRay(behave)
    monkeypatch.setattr(execute, "import_ray", lambda: ray)
    try:
        return list(execute.execute(cells(count), CellSettings("base"), address="cluster"))
    finally:
        assert not ray.alive  # every worker is ended


def alpha(cell: Cell | None) -> int | None:
    return None if cell is None else cell.interventions[0]["scale"]["alpha"]


def test_a_cell_that_kills_its_workers_is_given_up_and_the_others_are_done(monkeypatch: pytest.MonkeyPatch) -> None:
    def behave(worker: int, cell: Cell | None) -> Any:
        if alpha(cell) == 1:
            raise WorkerDiedError("out of memory")
        return CellOutcome({}, None) if cell else "node/1"

    finished = work(monkeypatch, behave)
    assert sorted(str(alpha(each.cell)) for each in finished) == ["0", "1", "2", "3"]
    (failed,) = [each for each in finished if each.outcome.error]
    assert alpha(failed.cell) == 1 and failed.attempt == 3
    assert failed.outcome.error == (
        "its worker died 3 times, most likely because memory ran out; the last time: out of memory"
    )


def test_a_worker_that_never_starts_holds_no_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    def behave(worker: int, cell: Cell | None) -> Any:
        if worker == 1:
            return None
        return CellOutcome({}, None) if cell else "node/2"

    assert len(work(monkeypatch, behave)) == 4


def test_an_error_is_tried_a_second_time(monkeypatch: pytest.MonkeyPatch) -> None:
    finished = work(monkeypatch, lambda worker, cell: CellOutcome(None, "no") if cell else "node/1", count=2)
    assert [(each.outcome.error, each.attempt) for each in finished] == [("no", 2), ("no", 2)]


def test_workers_that_all_die_at_their_start_end_the_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    def behave(worker: int, cell: Cell | None) -> Any:
        raise WorkerDiedError("no module named effopd\nand more")

    with pytest.raises(CheckpointError, match=r"5 workers in a row died .* the last: no module named effopd\. Is"):
        work(monkeypatch, behave)


def test_a_worker_without_its_gpu_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)

    def behave(worker: int, cell: Cell | None) -> Any:
        try:
            return Worker(CellSettings("base", device="cuda")).ready()
        except UnsupportedError as error:
            failure = WorkerDiedError("its traceback")
            failure.cause = error  # type: ignore[attr-defined]
            raise failure from error

    with pytest.raises(CheckpointError, match=r"the last: torch .* finds no CUDA device on"):
        work(monkeypatch, behave)


def test_a_cluster_without_room_ends_the_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execute, "START_SECONDS", 0.01)
    with pytest.raises(CheckpointError, match="No worker has found a place in the Ray cluster"):
        work(monkeypatch, lambda worker, cell: None)


def test_there_are_as_many_workers_as_the_cluster_has_room_for() -> None:
    assert execute._room_in({"CPU": 8.0, "GPU": 2.0}, 0.0) == 8
    assert execute._room_in({"CPU": 8.0, "GPU": 2.0}, 0.5) == 4
    assert execute._room_in({"CPU": 1.0}, 1.0) == 1
    assert execute._room_here(0.0) >= 1
