"""Running untrusted programs: started in a sandbox, watched from outside, and broken off at their limits.

    outcome = run_program("print(int(input()) + 1)", stdin="41\n")
    outcome.ended, outcome.exit_code, outcome.stdout           # 'exited', 0, b'42\n'

Every process has limits set on itself; what processes use together is measured from outside, many times a second. When
the program ends, or is ended, everything that it started ends with it: the sandbox is a process name space, and the
kernel ends all of it together with its first process.
"""

import os
import selectors
import signal
import threading
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from effopd.errors import UnsupportedError
from effopd.evaluation.limits import Limits
from effopd.evaluation.start import SandboxedProcess

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
        ended: `exited` by itself (or by a crash), or the limit at which it was broken off; `stopped` if from outside.
        exit_code: Its exit status, above 128 after a signal; None if it was broken off.
        stdout: What it wrote, at most `Limits.output_mb`.
        stderr: The same.
        seconds: By the clock, from the start of the sandbox.
    """

    ended: Ending
    exit_code: int | None
    stdout: bytes
    stderr: bytes
    seconds: float


def run_program(source: str, *, stdin: str = "", limits: Limits | None = None, unsafe: bool = False) -> Outcome:
    """Run a Python program to its end, or to its limits.

    Args:
        source: The program.
        stdin: What it reads from standard input.
        limits: What it may use; `Limits()` by default.
        unsafe: Run it with all rights of this user, with limits on single processes only. Warns.

    Raises:
        UnsupportedError: There is no working sandbox.
    """
    if unsafe:
        warn_unsafe()
    with SandboxedProcess("program", source, limits or Limits(), stdin=stdin, unsafe=unsafe) as process:
        return watch([process])


def warn_unsafe() -> None:
    """Warn of running without a sandbox."""
    warnings.warn(
        "Code written by a model runs without a sandbox, with all your rights. Do this only on a machine that you can"
        " throw away.",
        stacklevel=3,
    )


def watch(processes: Sequence[SandboxedProcess], stop: threading.Event | None = None) -> Outcome:
    """Wait until the first of some processes ends, or one of them reaches a limit.

    Args:
        processes: The one whose end is waited for, then those that it works with, which may end before.
        stop: Set by another thread, ends the waiting.

    Returns:
        How the first one ended. If a limit was reached, whoever did it, that limit.

    Raises:
        UnsupportedError: The first one did not start.
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
    first = watched[0]
    if not first.has_started and ended in (None, "not started"):
        message = first.output[first.process.stderr].decode(errors="replace").strip()
        raise UnsupportedError(f"The sandbox did not start: {message or 'no message'}. Free some memory or processes.")
    if ended is None and exit_code == 128 + signal.SIGXCPU:
        ended = "time"
    outputs = bytes(first.output[first.process.stdout]), bytes(first.output[first.process.stderr])
    seconds = time.monotonic() - started
    return Outcome(ended or "exited", None if ended else exit_code, *outputs, seconds)


class _Watched:
    """A process, what it has written so far, and until when it may run."""

    def __init__(self, process: SandboxedProcess) -> None:
        self.process = process
        self.output = {process.stdout: bytearray(), process.stderr: bytearray()}
        self.has_started = False
        self.overflow: Ending | None = None
        self._deadline = time.monotonic() + _STARTING_SECONDS

    def read(self, descriptor: int) -> bytes:
        """Take what there is to read from one of its descriptors; empty when there never will be more."""
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
        """Whether there may be output to read after it exited; what outlives it (`unsafe`) is not waited for long."""
        is_open = any(descriptor in selector.get_map() for descriptor in self.output)
        return is_open and time.monotonic() - exited < _DRAINING_SECONDS

    def reached_limit(self) -> Ending | None:
        limits = self.process.limits
        if time.monotonic() > self._deadline:
            return "time" if self.has_started else "not started"
        if not self.has_started:  # the sandbox may not be complete yet: what is measured could be the host
            return None
        usage = self.process.usage()
        if usage.cpu_s > limits.time_s:
            return "time"
        if usage.processes > limits.processes + _OWN_PROCESSES:
            return "processes"
        if usage.files > limits.files:
            return "files"
        most = limits.memory_mb * _MIB
        if usage.memory_bytes + usage.file_bytes > most and self.process.memory_bytes() + usage.file_bytes > most:
            return "memory"
        return None
