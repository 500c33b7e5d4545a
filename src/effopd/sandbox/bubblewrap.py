"""The command that starts a process in a sandbox, by bubblewrap.

The process has no network, no variable of the environment and no view of other processes; what files it sees is in
`mounts.py`. If root starts it, it gets a user id of its own that nothing on the host has; if anyone else does, it lives
in a user namespace in which it has no rights beyond those of the user.
"""

import functools
import itertools
import os
import shutil
import subprocess
from pathlib import Path

from effopd.errors import UnsupportedError
from effopd.sandbox.command import ENVIRONMENT, LAUNCH, PYTHON_OPTIONS, WORK_DIRECTORY, Command
from effopd.sandbox.mounts import LIBRARY, PACKAGES, package_mounts, python_mounts, system_mounts, writable_mounts

_PROGRAM = "/sandbox/main.py"
_LAUNCH = f"{LIBRARY}/{LAUNCH}"
_SPACES = ["--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try"]
_ISOLATION = [*_SPACES, "--hostname", "sandbox"]
_LIFETIME = ["--die-with-parent", "--new-session"]
_users = itertools.count(os.getpid() * 4099)


def find_bubblewrap() -> str:
    """Find bubblewrap.

    Raises:
        UnsupportedError: It is not installed.
    """
    path = shutil.which("bwrap")
    if path is None:
        raise UnsupportedError(
            "Code written by a model runs only in a sandbox, and bubblewrap (bwrap) is not installed. Install it"
            " (apt install bubblewrap). Only `effopd grade` can do without: --unsafe runs code with all your rights."
        )
    return path


def sandbox_command(*, runner: str | None, program: int, status: int, system_calls: int, file_bytes: int) -> Command:
    """Make a command that runs a program in a sandbox.

    Args:
        runner: Function that runs the program, as for `SandboxedProcess`.
        program: File descriptor with the program's source.
        status: File descriptor to which bubblewrap writes the process id of the sandbox's first process.
        system_calls: File descriptor with the filter of system calls.
        file_bytes: Size in bytes of each of the file systems that can be written to.

    Raises:
        UnsupportedError: bubblewrap is not installed, or does not work here.
    """
    bubblewrap = find_bubblewrap()
    # Root in a user namespace is still root to the host's /proc/sys, so processes of root always get another user.
    own_user = os.geteuid() == 0
    _check_bubblewrap(bubblewrap, own_user)
    python, its_mounts, its_environment = python_mounts()
    environment = ENVIRONMENT | {"PYTHONPATH": f"{LIBRARY}:{PACKAGES}"} | its_environment
    arguments = [
        bubblewrap,
        *_isolation(own_user),
        *_LIFETIME,
        *("--info-fd", str(status)),
        *("--seccomp", str(system_calls)),
        *system_mounts(),
        *its_mounts,
        *package_mounts(runner),
        *("--perms", "0444", "--ro-bind-data", str(program), _PROGRAM),
        *writable_mounts(file_bytes),
        *("--chdir", WORK_DIRECTORY, "--clearenv"),
        *itertools.chain.from_iterable(("--setenv", *item) for item in environment.items()),
        *(python, *PYTHON_OPTIONS, _LAUNCH),
    ]
    user = _unused_user() if own_user else None
    return Command(tuple(arguments), {}, None, user, _PROGRAM, sandboxed=True)


def _isolation(own_user: bool) -> list[str]:
    if own_user:  # the two rights are needed to become another user, and becoming it gives them up
        return [*_ISOLATION, "--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    return [*_ISOLATION, "--unshare-user", "--uid", "65534", "--gid", "65534", "--cap-drop", "ALL"]


@functools.cache
def _check_bubblewrap(bubblewrap: str, own_user: bool) -> None:
    """Try bubblewrap, once in the life of this process."""
    command = [bubblewrap, *_isolation(own_user), *_LIFETIME, "--ro-bind", "/", "/", "--proc", "/proc", "true"]
    result = subprocess.run(command, env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        remedy = (
            "Run by root, it needs the right CAP_SYS_ADMIN: grade as an ordinary user, or outside of the container."
            if own_user
            else "It needs user namespaces: allow them, with sysctl kernel.apparmor_restrict_unprivileged_userns=0 on"
            " Ubuntu, with --security-opt seccomp=unconfined --security-opt apparmor=unconfined in Docker."
        )
        raise UnsupportedError(f"bubblewrap does not work here: {result.stderr.strip()}. {remedy}")


def _unused_user() -> int:
    """Choose a user id in the upper half of those that exist here, another one for every sandbox of this process."""
    spans = [line.split() for line in Path("/proc/self/uid_map").read_text().splitlines()]
    size = max(int(first) + int(count) for first, _, count in spans)
    return size // 2 + next(_users) % (size // 4)
