"""A process in a sandbox: started, measured and ended, together with everything that it started itself."""

import contextlib
import fcntl
import json
import os
import select
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from effopd.sandbox.bubblewrap import sandbox_command
from effopd.sandbox.command import Command, unsafe_command
from effopd.sandbox.limits import Limits, resource_limits
from effopd.sandbox.mounts import TEMPORARY
from effopd.sandbox.seccomp import system_call_filter
from effopd.sandbox.usage import Usage, measure_usage, proportional_memory

_MIB = 2**20


class SandboxedProcess:
    """A process in a sandbox. It is a context manager; leaving the context ends everything in the sandbox.

    Args:
        source: Source code of the program.
        limits: Limits on what it may use.
        runner: Function `package.module:function` that is called in the sandbox with the path of the source and with
            `descriptors`. Of effopd, only its package can be imported there. None runs the source as a script.
        stdin: Text that the process reads from standard input.
        descriptors: Open file descriptors for the runner, by the names that it knows them by.
        unsafe: Whether to do without the sandbox, with limits only on each single process.

    Attributes:
        limits: Limits on what it may use.
        stdout: File descriptor to read its standard output from.
        stderr: File descriptor to read its standard error from.
        ready: File descriptor that has a byte to read once the limits are set and the program starts.

    Raises:
        UnsupportedError: There is no working sandbox.
    """

    def __init__(
        self,
        source: str,
        limits: Limits,
        *,
        runner: str | None = None,
        stdin: str = "",
        descriptors: Mapping[str, int] | None = None,
        unsafe: bool = False,
    ) -> None:
        self.limits = limits
        self._first: tuple[int, int] | None = None  # process id and descriptor of the first process inside
        self._proc = Path("/proc")
        self._file_systems: tuple[Path, ...] = ()
        self._session: int | None = None
        self._resources = contextlib.ExitStack()
        with contextlib.ExitStack() as only_to_start, contextlib.ExitStack() as after_failure:
            after_failure.push(self._resources)
            self.ready, ready_write = os.pipe()
            self._resources.callback(os.close, self.ready)
            only_to_start.callback(os.close, ready_write)
            given = {**(descriptors or {}), "ready": ready_write}
            settings = {"runner": runner, "descriptors": given}
            data = only_to_start.enter_context(_sealed(stdin))
            start = self._start_unsafe if unsafe else self._start_sandbox
            self._process = start(only_to_start, source, settings, data)
            after_failure.pop_all()
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self.stdout, self.stderr = self._process.stdout.fileno(), self._process.stderr.fileno()

    def exit_code(self) -> int | None:
        """Return the exit status of the process, above 128 after a signal; None while it runs."""
        code = self._process.poll()
        return code if code is None or code >= 0 else 128 - code

    def usage(self) -> Usage:
        """Measure what everything in the sandbox uses. This is valid once `ready` has its byte, and 0 after the end."""
        try:
            return measure_usage(self._proc, self._file_systems, self._session)
        except OSError:
            return Usage()

    def memory_bytes(self) -> int:
        """Measure the bytes of memory that everything in the sandbox uses.

        This is exact but slower than `usage`, which counts a shared page once for each process.
        """
        try:
            return proportional_memory(self._proc)
        except OSError:
            return 0

    def end(self) -> None:
        """End everything in the sandbox, and wait until it has ended."""
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                if self._session is not None:
                    os.killpg(self._session, signal.SIGKILL)
                elif self._first is not None:
                    signal.pidfd_send_signal(self._first[1], signal.SIGKILL)
            try:
                self._process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        elif self._session is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._session, signal.SIGKILL)
        if self._first is not None:
            _wait_for_end(*self._first)
        for stream in (self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()
        self._resources.close()

    def __enter__(self) -> "SandboxedProcess":
        return self

    def __exit__(self, *exception: object) -> None:
        self.end()

    def _start_sandbox(
        self, stack: contextlib.ExitStack, source: str, settings: dict[str, Any], stdin: int
    ) -> "subprocess.Popen[bytes]":
        program = stack.enter_context(_sealed(source))
        system_calls = stack.enter_context(_sealed(system_call_filter()))
        status_read, status = os.pipe()
        stack.callback(os.close, status_read)
        command = sandbox_command(
            runner=settings["runner"],
            program=program,
            status=status,
            system_calls=system_calls,
            file_bytes=self.limits.file_mb * _MIB,
        )
        try:
            process = self._popen(command, settings, stdin, [program, status, system_calls])
        finally:
            os.close(status)
        pid = _first_process(status_read)
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                self._first = pid, os.pidfd_open(pid)
                self._resources.callback(os.close, self._first[1])
            root = Path(f"/proc/{pid}/root")
            self._proc = root / "proc"
            self._file_systems = tuple(root / path.lstrip("/") for path in TEMPORARY)
        return process

    def _start_unsafe(
        self, stack: contextlib.ExitStack, source: str, settings: dict[str, Any], stdin: int
    ) -> "subprocess.Popen[bytes]":
        directory = Path(self._resources.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
        command = unsafe_command(directory, settings["runner"])
        Path(command.program).write_text(source, encoding="utf-8", errors="replace")
        process = self._popen(command, settings, stdin, [])
        self._session = process.pid
        return process

    def _popen(
        self, command: Command, settings: dict[str, Any], stdin: int, descriptors: list[int]
    ) -> "subprocess.Popen[bytes]":
        limits = resource_limits(self.limits, own_user=command.user is not None, sandboxed=command.sandboxed)
        return subprocess.Popen(
            command.with_settings(settings | {"limits": limits}),
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=command.environment,  # bubblewrap gets it, too: programs can read the environment of the first process
            cwd=command.directory,
            pass_fds=[*descriptors, *settings["descriptors"].values()],
            start_new_session=True,  # Ctrl-C does not reach it: this process ends what it has started
            bufsize=0,
        )


@contextlib.contextmanager
def _sealed(content: str | bytes) -> Iterator[int]:
    """Make a file in memory that nobody can change, and open it for reading."""
    descriptor = os.memfd_create("input", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        view = memoryview(content.encode("utf-8", "replace") if isinstance(content, str) else content)
        while view:
            view = view[os.write(descriptor, view) :]
        os.lseek(descriptor, 0, os.SEEK_SET)
        seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
        yield descriptor
    finally:
        os.close(descriptor)


def _first_process(status: int) -> int | None:
    """Read the process id that bubblewrap reports for the sandbox's first process; None if it has failed before."""
    text = b""
    while part := os.read(status, 4096):
        text += part
    try:
        return int(json.loads(text)["child-pid"])
    except (ValueError, KeyError):
        return None


def _wait_for_end(pid: int, descriptor: int) -> None:
    """End the first process of a sandbox, and wait for it: it ends after all others, and bubblewrap does not wait."""
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    poll.poll(5000)
    # In a container, this process may be the first one, whose children orphans become.
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
