"""First code in the sandbox: gives up rights, sets limits, then runs a program, a candidate or its tests.

    python launch.py SETTINGS

`SETTINGS` is JSON with the keys `role`, `program` (path of the source), `user` (id to become, or null), `limits` (name
of a resource limit -> value) and `descriptors` (open file descriptors by name). A byte written to the descriptor
`ready` tells the parent that limits are set and foreign code starts.
"""

import json
import os
import resource
import site
import sys
import types
from typing import Any


def main() -> None:
    """Do what the one argument says."""
    settings = json.loads(sys.argv[1])
    sys.argv = [settings["program"]]
    for variable in [name for name in os.environ if name.startswith(("PYTHON", "LD_"))]:
        del os.environ[variable]
    descriptors = settings["descriptors"]
    runner = _RUNNERS[settings["role"]]()
    _restrict(settings["user"], settings["limits"])
    os.write(descriptors["ready"], b"1")
    os.close(descriptors["ready"])
    runner(settings["program"], descriptors)


def _restrict(user: int | None, limits: dict[str, int]) -> None:
    if user is not None:
        os.setgroups([])
        os.setgid(user)
        os.setuid(user)
    try:
        with open("/proc/self/oom_score_adj", "w") as file:  # noqa: PTH123  (pathlib takes milliseconds to import)
            file.write("1000")
    except OSError:
        pass  # only a preference: let the kernel end this program before any other
    most = resource.getrlimit(resource.RLIMIT_STACK)[1]
    resource.setrlimit(resource.RLIMIT_STACK, (most, most))  # deep recursion: memory is its limit
    for name, value in limits.items():
        resource.setrlimit(getattr(resource, name), (value, value))


def _run_program(path: str, descriptors: dict[str, int]) -> None:
    with open(path, "rb") as file:  # noqa: PTH123
        source = file.read()
    module: Any = types.ModuleType("__main__")
    module.__file__ = path
    sys.modules["__main__"] = module
    exec(compile(source, path, "exec"), module.__dict__)


def _program() -> Any:
    site.setquit()  # `exit()` and `quit()`, which `python -S` leaves out
    return _run_program


def _candidate() -> Any:
    from effopd.evaluation.inside.candidate import serve

    site.setquit()
    return serve


def _tests() -> Any:
    from effopd.evaluation.inside.harness import run_tests

    return run_tests


_RUNNERS = {"program": _program, "candidate": _candidate, "tests": _tests}

if __name__ == "__main__":
    main()
