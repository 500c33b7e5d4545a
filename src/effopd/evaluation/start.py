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
from typing import Any, Literal

from effopd.errors import UnsupportedError
from effopd.evaluation.bubblewrap import TEMPORARY, Command, sandbox_command, unsafe_command, with_settings
from effopd.evaluation.limits import Limits, resource_limits
from effopd.evaluation.processes import Usage, measure, proportional_memory
from effopd.evaluation.seccomp import system_call_filter

Role = Literal["program", "candidate", "tests"]
"""What `inside/launch.py` does with the program."""

_MIB = 2**20


class SandboxedProcess:
    """A process in a sandbox. A context manager; leaving it ends everything in the sandbox.

    Args:
        role: What is done with the program.
        source: The program.
        limits: What it may use.
        stdin: What it reads from standard input.
        descriptors: Open file descriptors that it gets, by the names that its role knows them by.
        unsafe: Without a sandbox, and with no limits but those of single processes.

    Attributes:
        limits: What it may use.
        stdout: File descriptor to read its standard output from.
        stderr: The same for standard error.
        ready: File descriptor that has a byte to read once its limits are set and the program starts.

    Raises:
        UnsupportedError: There is no working sandbox.
    """

    def __init__(
        self,
        role: Role,
        source: str,
        limits: Limits,
        *,
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
            settings = {"role": role, "descriptors": given}
            data = only_to_start.enter_context(_sealed(stdin))
            start = self._start_unsafe if unsafe else self._start_sandbox
            self._process = start(only_to_start, source, settings, data)
            after_failure.pop_all()
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self.stdout, self.stderr = self._process.stdout.fileno(), self._process.stderr.fileno()

    def exit_code(self) -> int | None:
        """Its exit status, above 128 after a signal; None while it runs. What it leaves behind is being ended then."""
        code = self._process.poll()
        return code if code is None or code >= 0 else 128 - code

    def usage(self) -> Usage:
        """What everything in the sandbox uses together, once `ready` has its byte; nothing once it has ended."""
        try:
            return measure(self._proc, self._file_systems, self._session)
        except OSError:
            return Usage()

    def memory_bytes(self) -> int:
        """Memory of everything in the sandbox: exact, and slower than `usage`, which counts shared pages repeatedly."""
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
            program=program, status=status, system_calls=system_calls, file_bytes=self.limits.file_mb * _MIB
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
        command = unsafe_command(directory)
        Path(command.program).write_text(source, encoding="utf-8", errors="replace")
        process = self._popen(command, settings, stdin, [])
        self._session = process.pid
        return process

    def _popen(
        self, command: Command, settings: dict[str, Any], stdin: int, descriptors: list[int]
    ) -> "subprocess.Popen[bytes]":
        limits = resource_limits(self.limits, own_user=command.user is not None, sandboxed=command.sandboxed)
        return subprocess.Popen(
            with_settings(command, settings | {"limits": limits}),
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=command.environment,  # of bubblewrap too, as the sandbox can read that of its first process
            cwd=command.directory,
            pass_fds=[*descriptors, *settings["descriptors"].values()],
            start_new_session=True,  # Ctrl-C is for us; we end what we started
            bufsize=0,
        )


@contextlib.contextmanager
def _sealed(content: str | bytes) -> Iterator[int]:
    """A file in memory, to be read from its start, that nobody can change."""
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
    """Process id that bubblewrap reports; None if it fails before."""
    text = b""
    while part := os.read(status, 4096):
        text += part
    try:
        return int(json.loads(text)["child-pid"])
    except (ValueError, KeyError):
        return None


def _wait_for_end(pid: int, descriptor: int) -> None:
    """Wait for the first process of a sandbox, which ends after all others; bubblewrap does not wait for it."""
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    poll.poll(5000)
    with contextlib.suppress(ChildProcessError):  # orphans are ours if this is the first process of a container
        os.waitpid(pid, os.WNOHANG)


def check_sandbox() -> None:
    """Start an empty program in a sandbox.

    Raises:
        UnsupportedError: There is no working sandbox, or what is in it cannot be measured.
    """
    with SandboxedProcess("program", "import time; time.sleep(60)", Limits()) as process:
        if not os.read(process.ready, 1):
            message = os.read(process.stderr, 2000).decode(errors="replace").strip()
            raise UnsupportedError(f"The sandbox does not start: {message}. See docs/evaluation.md for what it needs.")
        if process.usage().processes == 0:
            raise UnsupportedError("The processes of a sandbox cannot be seen from outside: /proc is restricted here.")
