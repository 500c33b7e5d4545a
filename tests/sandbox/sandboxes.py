"""What the tests of programs share: limits, and the proof that nothing is left of a sandbox."""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from effopd.sandbox import Limits, SandboxedProcess

needs_bubblewrap = pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")
SMALL = Limits(time_s=30, memory_mb=256, processes=16, output_mb=1, file_mb=16, files=1000)
"""Time enough for whatever ends by itself or at another limit, however busy the machine is."""
BRIEF = replace(SMALL, time_s=0.5)
"""For programs that only the limit on time ends."""


def hangs_are_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs that wait without computing are broken off after a second and a half."""
    monkeypatch.setattr(Limits, "wall_s", 1.5)


@pytest.fixture
def nothing_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """After the test, no process of its sandboxes lives, and this process has no more open files than before."""
    spaces: set[int] = set()
    start: Callable[..., None] = SandboxedProcess.__init__

    def start_and_note(self: SandboxedProcess, *arguments: Any, **keywords: Any) -> None:
        start(self, *arguments, **keywords)
        spaces.update(pid_spaces(self._proc.parent.parent.name) - pid_spaces("self"))

    monkeypatch.setattr(SandboxedProcess, "__init__", start_and_note)
    descriptors = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    yield
    deadline = time.monotonic() + 20  # a busy machine takes a while to reap the killed
    while spaces & set().union(*map(pid_spaces, os.listdir("/proc"))):  # noqa: PTH208
        assert time.monotonic() < deadline, "a process of a sandbox still lives"
        time.sleep(0.1)
    deadline = time.monotonic() + 5  # threads that ran the last programs may still be closing files
    while len(os.listdir("/proc/self/fd")) > descriptors and time.monotonic() < deadline:  # noqa: PTH208
        time.sleep(0.05)
    assert len(os.listdir("/proc/self/fd")) <= descriptors  # noqa: PTH208


def pid_spaces(pid: str) -> set[int]:
    """The process namespace of a process; nothing if there is no such process, or if it has ended."""
    try:
        if (Path("/proc") / pid / "stat").read_text().rpartition(")")[2].split()[0] == "Z":
            return set()
        return {(Path("/proc") / pid / "ns" / "pid").stat().st_ino}
    except (OSError, IndexError):
        return set()
