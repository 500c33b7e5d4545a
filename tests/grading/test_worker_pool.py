"""Worker processes: a task that hangs or crashes costs only itself."""

import os
import signal
from pathlib import Path

import pytest

from effopd.errors import UnsupportedError
from effopd.grading.worker_pool import Reply, WorkerPool

WORKER = """
import json, os, sys, time
print('"ready"', flush=True)
for line in sys.stdin:
    task = json.loads(line)
    if task == "die":
        os._exit(1)
    if task == "hang":
        while True:
            pass
    print(json.dumps(task), flush=True)
"""


@pytest.fixture
def pool(tmp_path: Path) -> WorkerPool:
    (tmp_path / "worker.py").write_text(WORKER)
    return WorkerPool(tmp_path / "worker.py", [], 2)


def summary(replies: list[Reply]) -> list[object]:
    return [reply.lost or reply.value for reply in replies]


def test_workers_are_replaced(pool: WorkerPool) -> None:
    tasks = [1, "die", 2, "hang", "die", 3, "x" * 200_000, 4]
    replies = list(pool.map(tasks, 1.0))
    assert summary(replies) == [1, "crashed", 2, "time", "crashed", 3, "x" * 200_000, 4]
    assert summary(list(pool.map([5, 6], 1.0))) == [5, 6]
    assert list(pool.map([], 1.0)) == []
    pool.close()


def test_a_worker_that_is_killed_from_outside_is_replaced(pool: WorkerPool) -> None:
    assert summary(list(pool.map([1, 2], 5.0))) == [1, 2]
    for worker in pool._workers:
        os.kill(worker._process.pid, signal.SIGKILL)
        worker._process.wait()
    assert summary(list(pool.map([1, 2, 3], 5.0))) == [1, 2, 3]
    pool.close()


def test_leaving_early_ends_busy_workers(pool: WorkerPool) -> None:
    while sum(worker.ready for worker in pool._workers) < 2:
        list(pool.map([1, 2], 60.0))
    replies = pool.map([1, "hang", "hang"], 600.0)
    assert next(replies).value == 1
    busy = [worker for worker in pool._workers if worker.task is not None]
    replies.close()  # type: ignore[attr-defined]
    assert busy
    assert not any(worker.is_alive() for worker in busy)
    assert not [worker for worker in pool._workers if worker.task is not None]
    pool.close()


def test_workers_that_do_not_start_are_an_error(tmp_path: Path) -> None:
    pool = WorkerPool(tmp_path / "missing.py", [], 1)
    with pytest.raises(UnsupportedError, match=r"does not start.*missing\.py"):
        list(pool.map([1], 1.0))
    pool.close()


def test_starts_that_fail_now_and_then_are_no_error(tmp_path: Path) -> None:
    (tmp_path / "worker.py").write_text(
        f"""
import os, sys
path = {str(tmp_path / "starts")!r}
with open(path, "a") as file:
    file.write("x")
if os.path.getsize(path) % 2:  # every other start
    sys.exit(1)
{WORKER}"""
    )
    pool = WorkerPool(tmp_path / "worker.py", [], 1)
    assert summary(list(pool.map(["die"] * 4, 5.0))) == ["crashed"] * 4
    assert (tmp_path / "starts").read_text() == "x" * 8  # a worker does one task, after one start that failed
    pool.close()
