"""Proof that nothing is left of a sandbox."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from effopd.evaluation.start import SandboxedProcess


@pytest.fixture
def nothing_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Afterwards, no process of any sandbox of the test lives, and this process has no open file more than before."""
    spaces: set[int] = set()
    start: Callable[..., None] = SandboxedProcess.__init__

    def start_and_note(self: SandboxedProcess, *arguments: Any, **keywords: Any) -> None:
        start(self, *arguments, **keywords)
        spaces.update(pid_spaces(self._proc.parent.parent.name) - pid_spaces("self"))

    monkeypatch.setattr(SandboxedProcess, "__init__", start_and_note)
    descriptors = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    yield
    assert not spaces & set().union(*map(pid_spaces, os.listdir("/proc")))  # noqa: PTH208
    deadline = time.monotonic() + 5  # threads of the last programs may still be closing theirs
    while len(os.listdir("/proc/self/fd")) > descriptors and time.monotonic() < deadline:  # noqa: PTH208
        time.sleep(0.05)
    assert len(os.listdir("/proc/self/fd")) <= descriptors  # noqa: PTH208


def pid_spaces(pid: str) -> set[int]:
    """The process name space of a process; nothing if there is no such process, or if it has ended."""
    try:
        if (Path("/proc") / pid / "stat").read_text().rpartition(")")[2].split()[0] == "Z":
            return set()
        return {(Path("/proc") / pid / "ns" / "pid").stat().st_ino}
    except (OSError, IndexError):
        return set()
