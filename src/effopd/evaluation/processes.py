"""How much the processes of a sandbox use together, which no limit of a single process bounds."""

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Usage:
    """What a group of processes uses.

    Attributes:
        processes: How many there are.
        cpu_s: Processor seconds, those of ended children that were waited for included.
        memory_bytes: Resident memory; shared pages count once per process.
        files: Files and directories in temporary file systems.
        file_bytes: What those hold, in memory.
    """

    processes: int = 0
    cpu_s: float = 0.0
    memory_bytes: int = 0
    files: int = 0
    file_bytes: int = 0


def measure(proc: Path, file_systems: tuple[Path, ...] = (), session: int | None = None) -> Usage:
    """Measure the processes of a proc file system.

    Args:
        proc: Where it is: a sandbox's own, seen from outside through `/proc/PID/root/proc`.
        file_systems: Mount points of temporary file systems whose contents count.
        session: Count only processes of this session.

    Raises:
        OSError: `proc` cannot be read (any more).
    """
    processes = memory = ticks = 0
    for name in os.listdir(proc):  # noqa: PTH208  (several times faster, and this runs many times a second)
        if not name.isdigit():
            continue
        with contextlib.suppress(OSError):  # it has ended meanwhile
            fields = (proc / name / "stat").read_bytes().rpartition(b")")[2].split()
            if session is None or int(fields[3]) == session:
                processes += 1
                ticks += sum(int(field) for field in fields[11:15])
                memory += int(fields[21]) * _PAGE
    files = file_bytes = 0
    for path in file_systems:
        status = os.statvfs(path)
        files += status.f_files - status.f_ffree
        file_bytes += (status.f_blocks - status.f_bfree) * status.f_frsize
    return Usage(processes, ticks / _TICKS, memory, files, file_bytes)


def proportional_memory(proc: Path) -> int:
    """Resident bytes of all processes of a proc file system, shared pages divided among those that share them.

    Slower than `measure`. A process that does not let itself be looked into counts with all its pages.
    """
    total = 0
    for name in os.listdir(proc):  # noqa: PTH208
        if not name.isdigit():
            continue
        with contextlib.suppress(OSError):
            try:
                lines = (proc / name / "smaps_rollup").read_bytes().splitlines()
                total += next(int(line.split()[1]) * 1024 for line in lines if line.startswith(b"Pss:"))
            except (OSError, StopIteration):
                total += int((proc / name / "statm").read_bytes().split()[1]) * _PAGE
    return total
