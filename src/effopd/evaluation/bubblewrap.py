"""The command that starts a process in a sandbox, by bubblewrap.

Inside there is a read-only `/usr/bin` and `/usr/lib`, the Python that runs effopd with its standard library, NumPy, an
own `/proc`, and `/tmp` and `/dev/shm` in memory, empty and of limited size. There is no network, no `/etc`, `/home`,
`/root`, no variable of the environment and no process from outside.

Started by root, processes inside get a user id of their own that nothing on the host has; started by anyone else,
they live in a user name space in which they have no rights beyond those of the user.
"""

import functools
import importlib.util
import itertools
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from effopd.errors import UnsupportedError

INSIDE = Path(__file__).parent / "inside"
TEMPORARY = ("/tmp", "/dev/shm")
"""File systems in memory that can be written to."""

_PYTHON = "/sandbox/python"
_LIBRARY = "/sandbox/library"
_PACKAGES = "/sandbox/packages"
_LAUNCH = f"{_LIBRARY}/effopd/evaluation/inside/launch.py"
_ISOLATION = ["--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try"]
_LIFETIME = ["--die-with-parent", "--new-session"]
_INTERPRETER_OPTIONS = ["-P", "-s", "-S", "-B", "-X", "utf8"]
_ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "HOME": TEMPORARY[0],
    "LANG": "C.UTF-8",
    "PYTHONHASHSEED": "0",  # the order of sets, and with it a verdict, is the same every time
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}
_users = itertools.count(os.getpid() * 4099)


@dataclass(frozen=True)
class Command:
    """A process to start.

    Attributes:
        arguments: Its command line.
        environment: Its whole environment.
        directory: Its working directory; None if the command line sets it.
        user: The user id that the process is to take on; None to keep its own.
        program: Path of the program, as seen by the process.
        sandboxed: Whether bubblewrap is part of it.
    """

    arguments: tuple[str, ...]
    environment: dict[str, str]
    directory: str | None
    user: int | None
    program: str
    sandboxed: bool


def find_bubblewrap() -> str:
    """Path of bubblewrap.

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


def sandbox_command(*, program: int, status: int, system_calls: int, file_bytes: int) -> Command:
    """A command for a sandbox.

    Args:
        program: File descriptor with the program's source.
        status: File descriptor that bubblewrap writes the process id of the sandbox's first process to.
        system_calls: File descriptor with the filter of system calls.
        file_bytes: Size of each of the file systems in `TEMPORARY`.

    Raises:
        UnsupportedError: bubblewrap is not installed, or does not work here.
    """
    bubblewrap = find_bubblewrap()
    # Root in a user name space is still root to the host's /proc/sys; so processes of root always get another user.
    own_user = os.geteuid() == 0
    _check_bubblewrap(bubblewrap, own_user)
    python, arguments, library_path = _python_mounts()
    environment = _ENVIRONMENT | {"PYTHONPATH": f"{_LIBRARY}:{_PACKAGES}"} | library_path
    arguments = [
        bubblewrap,
        *_isolation(own_user),
        *_LIFETIME,
        *("--info-fd", str(status)),
        *("--seccomp", str(system_calls)),
        *_system_mounts(),
        *arguments,
        *_package_mounts(),
        *("--perms", "0444", "--ro-bind-data", str(program), "/sandbox/main.py"),
        *_writable_mounts(file_bytes),
        *("--chdir", TEMPORARY[0], "--clearenv"),
        *itertools.chain.from_iterable(("--setenv", *item) for item in environment.items()),
        *(python, *_INTERPRETER_OPTIONS, _LAUNCH),
    ]
    user = _unused_user() if own_user else None
    return Command(tuple(arguments), {}, None, user, "/sandbox/main.py", sandboxed=True)


def unsafe_command(directory: Path) -> Command:
    """A command without a sandbox: limits on resources only.

    Args:
        directory: An empty directory. It has to hold `main.py` by the time the command starts.
    """
    library = directory / "library" / "effopd" / "evaluation"
    library.mkdir(parents=True)
    (library / "inside").symlink_to(INSIDE)
    work = directory / "work"
    work.mkdir()
    numpy = _numpy()
    packages = [str(numpy.parent)] if numpy else []
    environment = _ENVIRONMENT | {"PYTHONPATH": ":".join([str(directory / "library"), *packages]), "HOME": str(work)}
    arguments = (sys.executable, *_INTERPRETER_OPTIONS, str(library / "inside" / "launch.py"))
    return Command(arguments, environment, str(work), None, str(directory / "main.py"), sandboxed=False)


def with_settings(command: Command, settings: dict[str, Any]) -> list[str]:
    """The command line with the settings that `inside/launch.py` reads."""
    return [*command.arguments, json.dumps(settings | {"user": command.user, "program": command.program})]


def _isolation(own_user: bool) -> list[str]:
    if own_user:  # the two rights are what it takes to become another user; becoming it gives them up
        return [*_ISOLATION, "--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    return [*_ISOLATION, "--unshare-user", "--uid", "65534", "--gid", "65534", "--cap-drop", "ALL"]


@functools.cache
def _check_bubblewrap(bubblewrap: str, own_user: bool) -> None:
    """Try it once."""
    command = [bubblewrap, *_isolation(own_user), *_LIFETIME, "--ro-bind", "/", "/", "--proc", "/proc", "true"]
    result = subprocess.run(command, env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        remedy = (
            "Run by root, it needs the right CAP_SYS_ADMIN: grade as an ordinary user, or outside of the container."
            if own_user
            else "It needs user name spaces: allow them, with sysctl kernel.apparmor_restrict_unprivileged_userns=0 on"
            " Ubuntu, with --security-opt seccomp=unconfined --security-opt apparmor=unconfined in Docker."
        )
        raise UnsupportedError(f"bubblewrap does not work here: {result.stderr.strip()}. {remedy}")


def _unused_user() -> int:
    """A user id in the upper half of those that exist here, different for every sandbox of this process."""
    spans = [line.split() for line in Path("/proc/self/uid_map").read_text().splitlines()]
    size = max(int(first) + int(count) for first, _, count in spans)
    return size // 2 + next(_users) % (size // 4)


def _system_mounts() -> list[str]:
    mounts = ["--perms", "0755", "--dir", "/usr"]
    for name in ("bin", "lib", "lib32", "lib64"):
        usual, top = Path("/usr") / name, Path("/") / name
        if usual.is_dir():
            mounts += ["--ro-bind", str(usual), str(usual)]
        if top.is_symlink():
            mounts += ["--symlink", str(top.readlink()), str(top)]
        elif top.is_dir():
            mounts += ["--ro-bind", str(top), str(top)]
    for path in ("/usr/share/zoneinfo", "/etc/alternatives"):
        if Path(path).is_dir():
            mounts += ["--perms", "0755", "--dir", str(Path(path).parent), "--ro-bind", path, path]
    return [*mounts, "--perms", "0755", "--dir", "/sandbox"]


def _python_mounts() -> tuple[str, list[str], dict[str, str]]:
    """Path of the interpreter inside, mounts for it, and variables that it needs."""
    prefix = Path(sys.base_prefix).resolve()
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    executable = Path(sys.executable).resolve()
    if not executable.is_relative_to(prefix):
        executable = prefix / "bin" / version
    if prefix == Path("/usr"):
        return str(executable), [], {}
    inside = Path(_PYTHON) / executable.relative_to(prefix)
    mounts = ["--ro-bind", str(prefix), _PYTHON]
    packages = f"lib/{version}/site-packages"
    if (prefix / packages).is_dir():  # what happens to be installed there is not part of the sandbox
        mounts += ["--tmpfs", f"{_PYTHON}/{packages}", "--remount-ro", f"{_PYTHON}/{packages}"]
    return str(inside), mounts, {"LD_LIBRARY_PATH": f"{_PYTHON}/lib"}


def _package_mounts() -> list[str]:
    mounts = []
    for path in (_LIBRARY, f"{_LIBRARY}/effopd", f"{_LIBRARY}/effopd/evaluation", _PACKAGES):
        mounts += ["--perms", "0755", "--dir", path]
    mounts += ["--ro-bind", str(INSIDE), f"{_LIBRARY}/effopd/evaluation/inside"]
    numpy = _numpy()
    for package in [numpy, numpy.with_name("numpy.libs")] if numpy else []:
        if package.is_dir():
            mounts += ["--ro-bind", str(package), f"{_PACKAGES}/{package.name}"]
    return mounts


def _numpy() -> Path | None:
    spec = importlib.util.find_spec("numpy")
    return Path(spec.origin).parent if spec is not None and spec.origin is not None else None


def _writable_mounts(file_bytes: int) -> list[str]:
    mounts = ["--proc", "/proc", "--dev", "/dev"]
    for path in TEMPORARY:
        mounts += ["--perms", "1777", "--size", str(file_bytes), "--tmpfs", path]
    return [*mounts, "--remount-ro", "/dev", "--remount-ro", "/"]
