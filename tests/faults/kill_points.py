"""Kills a process with SIGKILL at the points at which it changes a directory, and keeps what it leaves there.

A point is: before a file is opened for writing, or something is renamed, removed or made; in the middle of a file's
first write; and before a call that is watched. At a point that was chosen, the process forks. The fork, which has all
that the process has in memory and in its buffers, is killed; the directory is copied; and the process goes on. So one
run is enough for all points.
"""

import builtins
import functools
import io
import os
import re
import shutil
import signal
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

_EVENTS = {"os.rename": "rename", "os.remove": "remove", "os.mkdir": "make", "os.rmdir": "remove"}


class KillPoints:
    """The points that this process reaches from now on. It cannot be undone, so it is for a process of its own.

    Args:
        root: Directory whose changes are points.
        chosen: Numbers of the points, from 1, at which a fork is killed.
        states: Directory for the copies of `root`, whose names are the numbers.

    Attributes:
        seen: Points reached so far.
    """

    def __init__(self, root: Path, chosen: Collection[int] = (), states: Path | None = None) -> None:
        self.root, self.chosen, self.states = root, chosen, states
        self.seen: list[str] = []
        sys.addaudithook(self._event)
        self._watch_files()
        self._watch_libraries()

    def before(self, owner: Any, name: str, what: str | None = None) -> None:
        """Make every call of a function a point."""
        function = getattr(owner, name)

        @functools.wraps(function)
        def called(*args: Any, **kwargs: Any) -> Any:
            self._reach(f"call {what or name}")
            return function(*args, **kwargs)

        setattr(owner, name, called)

    def _reach(
        self, point: str, half: Callable[[], Any] = lambda: None, undo: Callable[[], Any] = lambda: None
    ) -> None:
        """Reach a point. If it was chosen, a fork does `half` before it is killed, which this process undoes."""
        self.seen.append(point)
        if (number := len(self.seen)) not in self.chosen:
            return
        chosen, self.chosen, seen, self.seen = self.chosen, (), self.seen, []  # what follows is no part of the command
        child = os.fork()
        if child == 0:
            try:
                half()
            finally:
                os.kill(os.getpid(), signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL, (point, status)
        assert self.states is not None
        if self.root.exists():
            shutil.copytree(self.root, self.states / str(number))
        else:
            (self.states / str(number)).mkdir()
        undo()
        self.chosen, self.seen = chosen, seen

    def _inside(self, path: Any) -> str | None:
        """Name a path relative to the root; None if it is elsewhere or no path."""
        if not isinstance(path, str | os.PathLike):
            return None
        full = Path(os.fsdecode(path)).absolute()
        name = str(full.relative_to(self.root)) if full.is_relative_to(self.root) else None
        return name and re.sub(r"-\w{8}\.tmp\b", ".tmp", name)  # the random part of a temporary name

    def _event(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if flags & (os.O_WRONLY | os.O_RDWR) and (name := self._inside(path)) is not None:
                self._reach(f"open {name}")
        elif event in _EVENTS and (name := self._inside(arguments[0])) is not None:
            changes = event != "os.mkdir" or not Path(arguments[0]).exists()
            if changes:
                self._reach(f"{_EVENTS[event]} {name}")

    def _watch_files(self) -> None:
        real = io.open

        def opened(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
            found = real(file, mode, *args, **kwargs)
            name = self._inside(file) if set(mode) & set("wax") else None
            if name is not None:
                write, unwritten = found.write, [True]

                def written(data: Any) -> Any:
                    if unwritten and len(data):  # matplotlib tries with nothing whether a file takes bytes
                        unwritten.clear()
                        size = os.fstat(found.fileno()).st_size

                        def half() -> None:
                            write(data[: len(data) // 2])
                            found.flush()

                        def undo() -> None:
                            os.ftruncate(found.fileno(), size)
                            os.lseek(found.fileno(), size, os.SEEK_SET)

                        self._reach(f"half of {name}", half, undo)
                    return write(data)

                found.write = written
            return found

        io.open = builtins.open = opened

    def _watch_libraries(self) -> None:
        """Watch the functions that write files without Python's `open`; all are given the path as second argument."""
        import pyarrow.parquet
        import safetensors.torch
        import torch

        for owner, name in ((safetensors.torch, "serialize_file"), (torch, "save"), (pyarrow.parquet, "write_table")):
            self._watch_writer(owner, name)

    def _watch_writer(self, owner: Any, name: str) -> None:
        function = getattr(owner, name)

        @functools.wraps(function)
        def called(first: Any, path: Any, *args: Any, **kwargs: Any) -> Any:
            if (inside := self._inside(path)) is not None:

                def half() -> None:
                    function(first, path, *args, **kwargs)
                    os.truncate(path, Path(path).stat().st_size // 2)

                before = Path(path).read_bytes() if Path(path).exists() else None

                def undo() -> None:
                    Path(path).unlink() if before is None else Path(path).write_bytes(before)

                self._reach(f"open {inside}")
                self._reach(f"half of {inside}", half, undo)
            return function(first, path, *args, **kwargs)

        setattr(owner, name, called)
