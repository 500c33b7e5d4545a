"""The files that a program sees in its sandbox, as arguments for bubblewrap.

Read-only are `/usr/bin`, `/usr/lib`, the Python that runs effopd with its standard library, NumPy, and the modules that
run the program. `/proc` is the sandbox's own; `/tmp` and `/dev/shm` are empty, in memory, and of limited size.
`/dev/zero` is really `/dev/full`, which also reads as zeros, but cannot be mapped as memory that no limit counts. Where
`/dev/full` is no device, it is `/dev/null`.
"""

import sys
from pathlib import Path

from effopd.sandbox.command import WORK_DIRECTORY, library_packages, numpy_directory

TEMPORARY = (WORK_DIRECTORY, "/dev/shm")
"""Mount points of the file systems in memory, the only ones that can be written to."""

LIBRARY = "/sandbox/library"
PACKAGES = "/sandbox/packages"
_PYTHON = "/sandbox/python"


def system_mounts() -> list[str]:
    """List the mounts of the host's programs and shared libraries, read-only."""
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


def python_mounts() -> tuple[str, list[str], dict[str, str]]:
    """Return the path in the sandbox of the Python that runs effopd, its mounts, and the variables that it needs."""
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


def package_mounts(runner: str | None) -> list[str]:
    """List the mounts of the modules that run the program, and of NumPy, read-only.

    Args:
        runner: Function that runs the program, as for `SandboxedProcess`.
    """
    library = {f"{LIBRARY}/{place}": package for place, package in library_packages(runner).items()}
    parents = {str(parent) for place in library for parent in Path(place).parents if Path(LIBRARY) in parent.parents}
    mounts = []
    for path in (LIBRARY, *sorted(parents), PACKAGES):
        mounts += ["--perms", "0755", "--dir", path]
    for place, package in library.items():
        mounts += ["--ro-bind", str(package), place]
    numpy = numpy_directory()
    for package in [numpy, numpy.with_name("numpy.libs")] if numpy else []:
        if package.is_dir():
            mounts += ["--ro-bind", str(package), f"{PACKAGES}/{package.name}"]
    return mounts


def writable_mounts(file_bytes: int) -> list[str]:
    """List the mounts of the sandbox's own file systems. In the end, everything but `TEMPORARY` is read-only.

    Args:
        file_bytes: Size in bytes of each of the file systems in `TEMPORARY`.
    """
    zero = "/dev/full" if Path("/dev/full").is_char_device() else "/dev/null"
    mounts = ["--proc", "/proc", "--dev", "/dev", "--dev-bind", zero, "/dev/zero"]
    for path in TEMPORARY:
        mounts += ["--perms", "1777", "--size", str(file_bytes), "--tmpfs", path]
    return [*mounts, "--remount-ro", "/dev", "--remount-ro", "/"]
