"""Watching sandboxed processes from outside, until they end or reach a limit.

The kernel keeps limits on every single process. What the processes of a sandbox use together is measured here, many
times a second, so what a program's children compute that live shorter than that, and that it does not wait for, may be
missed. Leaving the context of a `SandboxedProcess` then ends everything that is left in its sandbox.
"""

import os
import selectors
import signal
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from effopd.errors import UnsupportedError
from effopd.sandbox.process import SandboxedProcess

Ending = Literal["exited", "time", "memory", "processes", "files", "output", "not started", "stopped"]

_MIB = 2**20
_INTERVAL_SECONDS = 0.025
_STARTING_SECONDS = 60.0
_DRAINING_SECONDS = 1.0
_OWN_PROCESSES = 2  # bubblewrap's first process, and the program itself


@dataclass(frozen=True)
class Outcome:
    """How a program ended.

    Attributes:
        ended: `exited` if it ended by itself, even by a crash; `stopped` if another thread broke it off; otherwise the
            limit at which it was broken off.
        exit_code: Exit status, above 128 after a signal; None if it was broken off.
        stdout: What it wrote to standard output. Writing more than `Limits.output_mb` breaks it off.
        stderr: What it wrote to standard error, with the same limit.
        seconds: Seconds by the clock since the watching began.
    """

    ended: Ending
    exit_code: int | None
    stdout: bytes
    stderr: bytes
    seconds: float


def watch(processes: Sequence[SandboxedProcess], stop: threading.Event | None = None) -> Outcome:
    """Wait until the first of several processes ends, or until any of them reaches a limit.

    Args:
        processes: The process to wait for, followed by those that it works with. These may end before it.
        stop: Event that another thread sets to end the waiting.

    Returns:
        How the first process ended. If any process reached a limit, `ended` is that limit.

    Raises:
        UnsupportedError: The first process did not start.
    """
    watched = [_Watched(process) for process in processes]
    started = time.monotonic()
    with selectors.DefaultSelector() as selector:
        for each in watched:
            for descriptor in (each.process.stdout, each.process.stderr, each.process.ready):
                selector.register(descriptor, selectors.EVENT_READ, each)
        checked = started
        exited: float | None = None
        while True:
            exit_code = watched[0].process.exit_code()
            exited = time.monotonic() if exit_code is not None and exited is None else exited
            for key, _ in selector.select(0 if exit_code is not None else _INTERVAL_SECONDS):
                if key.data.read(key.fd) == b"":
                    selector.unregister(key.fd)
            ended: Ending | None = next((each.overflow for each in watched if each.overflow), None)
            if stop is not None and stop.is_set():
                ended = "stopped"
            if ended is None and exit_code is None and time.monotonic() - checked > _INTERVAL_SECONDS:
                ended = next((limit for each in watched if (limit := each.reached_limit())), None)
                checked = time.monotonic()
            if ended is not None or (exited is not None and not watched[0].may_have_output(selector, exited)):
                break
    return _outcome(watched[0], ended, exit_code, time.monotonic() - started)


def _outcome(first: "_Watched", ended: Ending | None, exit_code: int | None, seconds: float) -> Outcome:
    stdout, stderr = (bytes(first.output[each]) for each in (first.process.stdout, first.process.stderr))
    if not first.has_started and ended in (None, "not started"):
        message = stderr.decode(errors="replace").strip()
        raise UnsupportedError(f"The sandbox did not start: {message or 'no message'}. Free some memory or processes.")
    if ended is None and exit_code == 128 + signal.SIGXCPU:
        ended = "time"
    return Outcome(ended or "exited", None if ended else exit_code, stdout, stderr, seconds)


class _Watched:
    """A process, what it has written so far, and until when it may run."""

    def __init__(self, process: SandboxedProcess) -> None:
        self.process = process
        self.output = {process.stdout: bytearray(), process.stderr: bytearray()}
        self.has_started = False
        self.overflow: Ending | None = None
        self._deadline = time.monotonic() + _STARTING_SECONDS
        self._own_cpu_s: dict[tuple[int, int], float] = {}  # of each process that was ever seen

    def read(self, descriptor: int) -> bytes:
        """Read what one of the process's descriptors has; empty bytes mean that there will never be more."""
        part = os.read(descriptor, 65536)
        if descriptor == self.process.ready:
            if part:
                self.has_started = True
                self._deadline = time.monotonic() + self.process.limits.wall_s
            return part
        self.output[descriptor] += part
        if len(self.output[descriptor]) > self.process.limits.output_mb * _MIB:
            self.overflow = "output"
        return part

    def may_have_output(self, selector: selectors.BaseSelector, exited: float) -> bool:
        """Tell whether the process, which has exited, may have left output to read.

        Without a sandbox, children that outlive the process can keep its output open; they are given a second.
        """
        is_open = any(descriptor in selector.get_map() for descriptor in self.output)
        return is_open and time.monotonic() - exited < _DRAINING_SECONDS

    def reached_limit(self) -> Ending | None:
        """Return the limit that the sandbox has reached; None if it has reached none."""
        limits = self.process.limits
        if time.monotonic() > self._deadline:
            return "time" if self.has_started else "not started"
        if not self.has_started:  # the sandbox may not be complete yet, and then the host would be measured
            return None
        usage = self.process.usage()
        self._own_cpu_s |= usage.own_cpu_s
        # The kernel forgets the times of children whose parent does not wait for them.
        if max(usage.cpu_s, sum(self._own_cpu_s.values())) > limits.time_s:
            return "time"
        if usage.processes > limits.processes + _OWN_PROCESSES:
            return "processes"
        if usage.files > limits.files:
            return "files"
        most = limits.memory_mb * _MIB
        if usage.memory_bytes + usage.file_bytes > most and self.process.memory_bytes() + usage.file_bytes > most:
            return "memory"
        return None
