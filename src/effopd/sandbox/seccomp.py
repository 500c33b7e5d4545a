"""A filter of system calls for the sandbox, as byte code of the kernel (seccomp-BPF).

Two kinds of calls are refused, with "operation not permitted". Some would be a way around the sandbox: the limits do
not count memory in anonymous files and System V objects, nor shared anonymous memory that stays when most of its
mapping is removed, and namespaces do not cover every family of sockets. Others expose a large part of the kernel and
are needed by no program that solves a problem.
"""

import platform
import struct
from collections.abc import Iterator

from effopd.errors import UnsupportedError

# Names of calls, each with its numbers on x86_64 and on aarch64, as in the kernel's unistd.h
_REFUSED = {
    "acct": (163, 89),
    "add_key": (248, 217),
    "bpf": (321, 280),
    "chroot": (161, 51),
    "delete_module": (176, 106),
    "fanotify_init": (300, 262),
    "finit_module": (313, 273),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fsopen": (430, 430),
    "fspick": (433, 433),
    "init_module": (175, 105),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "io_uring_setup": (425, 425),
    "kcmp": (312, 272),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "mount": (165, 40),
    "move_mount": (429, 429),
    "mq_open": (240, 180),
    "msgget": (68, 186),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "perf_event_open": (298, 241),
    "pidfd_getfd": (438, 438),
    "pivot_root": (155, 41),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "reboot": (169, 142),
    "request_key": (249, 218),
    "semget": (64, 190),
    "setns": (308, 268),
    "shmget": (29, 194),
    "swapon": (167, 224),
    "syslog": (103, 116),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
}
_MACHINES = {"x86_64": (0, 0xC000003E, 41, 56, 9), "aarch64": (1, 0xC00000B7, 198, 220, 222)}
"""For each machine: its column in the table above, its audit number, its numbers of `socket`, `clone` and `mmap`."""

_CLONE3 = 435
_NEW_NAMESPACES = 0x7E020000
_X32 = 0x40000000
_AF_UNIX = 1
_MAP_SHARED, _MAP_ANONYMOUS = 0x01, 0x20

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT, _FOURTH_ARGUMENT = 0, 4, 16, 40
_ALLOW, _KILL, _ERROR, _EPERM, _ENOSYS = 0x7FFF0000, 0x80000000, 0x00050000, 1, 38


def system_call_filter() -> bytes:
    """Make the filter for this machine, in the form that `bwrap --seccomp` reads.

    Raises:
        UnsupportedError: The machine is neither x86_64 nor aarch64.
    """
    machine = platform.machine()
    if machine not in _MACHINES:
        raise UnsupportedError(
            f"The sandbox's filter of system calls is for {' and '.join(_MACHINES)}; this machine is {machine!r}."
            " Grade on one of those."
        )
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in _instructions(*_MACHINES[machine]))


def _instructions(column: int, audit: int, socket: int, clone: int, mmap: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield the instructions of the filter, each as (code, jump if true, jump if false, operand)."""
    refuse = (_RETURN, 0, 0, _ERROR | _EPERM)
    allow = (_RETURN, 0, 0, _ALLOW)
    yield (_LOAD, 0, 0, _ARCHITECTURE)
    yield (_EQUAL, 1, 0, audit)
    yield (_RETURN, 0, 0, _KILL)
    yield (_LOAD, 0, 0, _NUMBER)
    yield (_AT_LEAST, 0, 1, _X32)  # x86_64 has a second set of numbers for the same calls
    yield refuse
    for numbers in _REFUSED.values():
        yield (_EQUAL, 0, 1, numbers[column])
        yield refuse
    yield (_EQUAL, 0, 1, _CLONE3)  # a filter cannot see its flags; where it is missing, libraries use clone
    yield (_RETURN, 0, 0, _ERROR | _ENOSYS)
    yield (_EQUAL, 0, 4, socket)
    yield (_LOAD, 0, 0, _FIRST_ARGUMENT)
    yield (_EQUAL, 0, 1, _AF_UNIX)
    yield allow
    yield refuse
    yield (_EQUAL, 0, 5, mmap)
    yield (_LOAD, 0, 0, _FOURTH_ARGUMENT)
    yield (_ANY_BIT, 0, 2, _MAP_SHARED)
    yield (_ANY_BIT, 0, 1, _MAP_ANONYMOUS)
    yield refuse
    yield allow
    yield (_EQUAL, 0, 3, clone)
    yield (_LOAD, 0, 0, _FIRST_ARGUMENT)
    yield (_ANY_BIT, 0, 1, _NEW_NAMESPACES)
    yield refuse
    yield allow
