"""Worker processes that can be killed: a task that hangs, or that crashes its worker, costs only itself.

`multiprocessing` is not used: its pools break when a worker dies, and it starts processes either by forking a program
that has threads and devices, or by importing the main module again.
"""

import contextlib
import json
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from effopd.errors import UnsupportedError

_STARTING_SECONDS = 300.0
_START_ATTEMPTS = 3


@dataclass(frozen=True)
class Reply:
    """What became of a task.

    Attributes:
        value: Answer of the worker, read from JSON; None if there is none.
        lost: Empty if there is an answer; `time` if the worker was killed at its deadline; `crashed` if it died.
        seconds: Seconds by the clock that the task took.
    """

    value: Any
    lost: str
    seconds: float


def num_processors() -> int:
    """Count the processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class WorkerPool:
    """Processes that do tasks. They are started when they are needed, and stay for the next call.

    A worker writes one line when it is ready. Then it reads tasks from standard input and answers them on standard
    output; each task and each answer is a line of JSON.

    Args:
        script: Path of the program that each worker runs.
        arguments: Arguments of that program.
        size: Largest number of workers.
    """

    def __init__(self, script: Path, arguments: Sequence[str], size: int) -> None:
        self._command = [sys.executable, "-P", str(script), *arguments]
        self._size = size
        self._workers: list[_Worker] = []
        self._failed_starts = 0

    def map(self, tasks: Sequence[Any], deadline_s: float) -> Iterator[Reply]:
        """Do tasks, several at a time.

        Args:
            tasks: Tasks, as JSON can hold them.
            deadline_s: Seconds by the clock after which the worker of a task is killed.

        Yields:
            The replies in the order of the tasks, each as soon as it and all before it are known.

        Raises:
            UnsupportedError: Workers do not start.
        """
        replies: dict[int, Reply] = {}
        waiting = iter(enumerate(tasks))
        try:
            for number in range(len(tasks)):
                while number not in replies:
                    self._give(waiting, len(tasks) - len(replies), deadline_s)
                    replies.update(self._take())
                yield replies[number]
        finally:
            for worker in [each for each in self._workers if each.task is not None]:
                self._remove(worker)

    def close(self) -> None:
        """End all workers."""
        for worker in list(self._workers):
            self._remove(worker)

    def _give(self, waiting: Iterator[tuple[int, Any]], num_left: int, deadline_s: float) -> None:
        for worker in [each for each in self._workers if each.ready and not each.is_alive()]:
            self._remove(worker)  # it ended while it had nothing to do, which is no task's fault
        while len(self._workers) < min(self._size, num_left):
            self._workers.append(_Worker(self._command))
        for worker in self._workers:
            if worker.task is None and worker.ready and (item := next(waiting, None)) is not None:
                worker.begin(*item, deadline_s)

    def _take(self) -> Iterator[tuple[int, Reply]]:
        """Wait until a worker answers, dies or reaches its deadline, and yield the replies that result."""
        with selectors.DefaultSelector() as selector:
            busy = [worker for worker in self._workers if not worker.ready or worker.task is not None]
            for worker in busy:
                selector.register(worker.output, selectors.EVENT_READ, worker)
            nearest = min(worker.deadline for worker in busy)
            events = selector.select(max(0.0, nearest - time.monotonic()))
        for key, _ in events:
            worker = key.data
            line = worker.read_line()
            if line == b"":
                yield from self._lose(worker, "crashed")
            elif line is not None:
                self._failed_starts = 0
                yield from worker.end(json.loads(line))
        for worker in [each for each in busy if each in self._workers and time.monotonic() > each.deadline]:
            yield from self._lose(worker, "time")

    def _lose(self, worker: "_Worker", how: str) -> Iterator[tuple[int, Reply]]:
        self._remove(worker)
        if worker.task is None:
            self._failed_starts += 1
            if self._failed_starts < _START_ATTEMPTS:
                return
            raise UnsupportedError(
                f"A worker process does not start ({how}): {' '.join(self._command)}. Run this by hand."
            )
        yield worker.task, Reply(None, how, time.monotonic() - worker.started)

    def _remove(self, worker: "_Worker") -> None:
        self._workers.remove(worker)
        worker.kill()


class _Worker:
    """One worker process. By `deadline`, a time of `time.monotonic`, it has to have answered."""

    def __init__(self, command: Sequence[str]) -> None:
        path = os.pathsep.join([str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])])
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            start_new_session=True,  # Ctrl-C does not reach it
        )
        assert self._process.stdout is not None
        self.output = self._process.stdout.fileno()
        self.ready = False
        self.task: int | None = None
        self.started = time.monotonic()
        self.deadline = self.started + _STARTING_SECONDS
        self._buffer = b""

    def is_alive(self) -> bool:
        """Tell whether the process still runs."""
        return self._process.poll() is None

    def begin(self, number: int, task: Any, deadline_s: float) -> None:
        """Give the process a task. If it has died, reading from it will tell."""
        assert self._process.stdin is not None
        self.task = number
        self.started = time.monotonic()
        self.deadline = self.started + deadline_s
        with contextlib.suppress(OSError):
            self._process.stdin.write(json.dumps(task).encode() + b"\n")
            self._process.stdin.flush()

    def end(self, value: Any) -> Iterator[tuple[int, Reply]]:
        """Take a line that the process wrote: its first one, or an answer, which is yielded."""
        if not self.ready:
            self.ready = True
            return
        assert self.task is not None
        number, self.task = self.task, None
        yield number, Reply(value, "", time.monotonic() - self.started)

    def read_line(self) -> bytes | None:
        """Read the next line; None if it is not complete yet, empty if the process has ended."""
        part = os.read(self.output, 65536)
        self._buffer += part
        line, newline, rest = self._buffer.partition(b"\n")
        if not newline:
            return None if part else b""
        self._buffer = rest
        return line

    def kill(self) -> None:
        """Kill the process."""
        self._process.kill()
        self._process.wait()
        with contextlib.suppress(OSError):
            if self._process.stdin is not None:
                self._process.stdin.close()
        if self._process.stdout is not None:
            self._process.stdout.close()
