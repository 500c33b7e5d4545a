"""The command line and environment that start a program, and the command that does so without a sandbox."""

import importlib.util
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WORK_DIRECTORY = "/tmp"
"""Where a program starts in a sandbox."""

PYTHON_OPTIONS = ["-P", "-s", "-S", "-B", "-X", "utf8"]
ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "HOME": WORK_DIRECTORY,
    "LANG": "C.UTF-8",
    "PYTHONHASHSEED": "0",  # the order of sets, and with it a verdict, is the same every time
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}
LAUNCH = "effopd/sandbox/inside/launch.py"
"""Path of the first code that runs, below the library directory."""

_LAUNCH_PACKAGE = "effopd.sandbox.inside"


@dataclass(frozen=True)
class Command:
    """How to start a process.

    Attributes:
        arguments: Command line, up to the settings.
        environment: Whole environment of the process.
        directory: Working directory; None if the command line sets it.
        user: User id that the process is to take on; None if it keeps its own.
        program: Path of the program's source, as the process sees it.
        sandboxed: Whether the command line starts a sandbox.
    """

    arguments: tuple[str, ...]
    environment: dict[str, str]
    directory: str | None
    user: int | None
    program: str
    sandboxed: bool

    def with_settings(self, settings: dict[str, Any]) -> list[str]:
        """Return the command line, followed by the settings that `inside/launch.py` reads."""
        return [*self.arguments, json.dumps(settings | {"user": self.user, "program": self.program})]


def unsafe_command(directory: Path, runner: str | None) -> Command:
    """Make a command that runs a program without a sandbox, with limits on single processes only.

    Args:
        directory: An empty directory. It has to hold the program as `main.py` when the command starts.
        runner: Function that runs the program, as for `SandboxedProcess`.
    """
    library = directory / "library"
    for place, package in library_packages(runner).items():
        (library / place).parent.mkdir(parents=True)
        (library / place).symlink_to(package)
    work = directory / "work"
    work.mkdir()
    numpy = numpy_directory()
    packages = [str(numpy.parent)] if numpy else []
    environment = ENVIRONMENT | {"PYTHONPATH": ":".join([str(library), *packages]), "HOME": str(work)}
    arguments = (sys.executable, *PYTHON_OPTIONS, str(library / LAUNCH))
    return Command(arguments, environment, str(work), None, str(directory / "main.py"), sandboxed=False)


def library_packages(runner: str | None) -> dict[str, Path]:
    """List the packages of effopd that a process needs, by place below its library directory, with where they are.

    Args:
        runner: Function that runs the program, as for `SandboxedProcess`. Its package is needed, too.
    """
    names = [_LAUNCH_PACKAGE]
    if runner is not None:
        names.append(runner.partition(":")[0].rpartition(".")[0])
    return {name.replace(".", "/"): _package_directory(name) for name in names}


def numpy_directory() -> Path | None:
    """Find the directory of NumPy; None if it is not installed."""
    return None if importlib.util.find_spec("numpy") is None else _package_directory("numpy")


def _package_directory(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent
