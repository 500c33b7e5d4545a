"""How much the processes of a sandbox use together, which no limit on a single process bounds."""

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Usage:
    """What a group of processes uses.

    Attributes:
        processes: Number of processes.
        cpu_s: Processor seconds, including those of children that have ended and were waited for.
        memory_bytes: Bytes of resident memory; a page that several processes share counts once for each.
        files: Number of files and directories in the temporary file systems.
        file_bytes: Bytes of memory that these file systems hold.
        own_cpu_s: Processor seconds of each process without its children, by its id and the time of its start.
    """

    processes: int = 0
    cpu_s: float = 0.0
    memory_bytes: int = 0
    files: int = 0
    file_bytes: int = 0
    own_cpu_s: Mapping[tuple[int, int], float] = field(default_factory=dict)


def measure_usage(proc: Path, file_systems: tuple[Path, ...] = (), session: int | None = None) -> Usage:
    """Measure the processes that a proc file system shows.

    Args:
        proc: Mount point of the proc file system. That of a sandbox is `/proc/PID/root/proc`, seen from outside.
        file_systems: Mount points of temporary file systems whose contents count.
        session: Session id, to count only the processes of that session.

    Raises:
        OSError: `proc` cannot be read, or cannot be read any more.
    """
    processes = memory = ticks = 0
    own_cpu_s = {}
    for name in os.listdir(proc):  # noqa: PTH208  (several times faster, and this runs many times a second)
        if not name.isdigit():
            continue
        with contextlib.suppress(OSError):  # the process has ended meanwhile
            fields = (proc / name / "stat").read_bytes().rpartition(b")")[2].split()
            if session is None or int(fields[3]) == session:
                processes += 1
                own, of_children = (sum(map(int, fields[first : first + 2])) for first in (11, 13))
                ticks += own + of_children
                own_cpu_s[int(name), int(fields[19])] = own / _TICKS
                memory += int(fields[21]) * _PAGE
    files = file_bytes = 0
    for path in file_systems:
        status = os.statvfs(path)
        files += status.f_files - status.f_ffree
        file_bytes += (status.f_blocks - status.f_bfree) * status.f_frsize
    return Usage(processes, ticks / _TICKS, memory, files, file_bytes, own_cpu_s)


def proportional_memory(proc: Path) -> int:
    """Measure the resident bytes of a proc file system's processes; those that share a page share its bytes, too.

    This is slower than `measure_usage`. A process that may not be looked into counts with all its pages.
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
