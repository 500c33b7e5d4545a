"""What a program in the sandbox may use."""

import math
import platform
from dataclasses import dataclass

from effopd.checks import check_number, check_whole

_MIB = 2**20
_ADDRESS_SPACE_MARGIN_MB = 256  # libraries are mapped whole into the address space, but only used in part
_OPEN_FILES = 64
_MOST = 2**20


@dataclass(frozen=True)
class Limits:
    """What a program may use, together with everything that it starts.

    All limits but `time_s` are at most 2**20.

    Attributes:
        time_s: Processor seconds, in (0, 3600]; starting Python counts. By the clock, `wall_s` seconds may pass.
        memory_mb: MiB of memory, including files, at least 32.
        processes: Number of processes and threads at a time, at least 1.
        output_mb: MiB of standard output, and as much of standard error, at least 1.
        file_mb: MiB of files in `/tmp`, and as much in `/dev/shm`, at least 1.
        files: Number of files and directories, at least 100.

    Raises:
        ConfigurationError: A limit is out of its range.
    """

    time_s: float = 6.0
    memory_mb: int = 1024
    processes: int = 32
    output_mb: int = 16
    file_mb: int = 64
    files: int = 10_000

    def __post_init__(self) -> None:
        check_number("time_s", self.time_s, above=0, high=3600)
        check_whole("memory_mb", self.memory_mb, 32, _MOST)
        check_whole("files", self.files, 100, _MOST)
        for name in ("processes", "output_mb", "file_mb"):
            check_whole(name, getattr(self, name), 1, _MOST)

    @property
    def wall_s(self) -> float:
        """Seconds by the clock: twice the processor seconds and two more, as other work may share the processor."""
        return 2 * self.time_s + 2


def resource_limits(limits: Limits, *, own_user: bool, sandboxed: bool) -> dict[str, int]:
    """List the limits that the kernel keeps for every process, by their names in Python's module `resource`.

    Args:
        limits: Limits on all processes together.
        own_user: Whether the processes have a user id that nothing else has.
        sandboxed: Whether the processes are in namespaces of their own.
    """
    values = {
        "RLIMIT_CPU": math.ceil(limits.time_s) + 1,
        "RLIMIT_AS": (limits.memory_mb + _ADDRESS_SPACE_MARGIN_MB) * _MIB,
        "RLIMIT_FSIZE": limits.file_mb * _MIB,
        "RLIMIT_NOFILE": _OPEN_FILES,
        "RLIMIT_CORE": 0,
        "RLIMIT_MSGQUEUE": 0,
        "RLIMIT_MEMLOCK": 0,
    }
    # The kernel counts processes by user, and since Linux 5.14 by user namespace: before, our own would count, too.
    major, minor = (int("".join(filter(str.isdigit, part)) or 0) for part in platform.release().split(".")[:2])
    if own_user or (sandboxed and (major, minor) >= (5, 14)):
        values["RLIMIT_NPROC"] = limits.processes
    return values
