"""The first code in the sandbox: it gives up rights, sets limits, and then runs the program.

    python launch.py SETTINGS

`SETTINGS` is JSON with the keys `runner` (the function that runs the program, as `package.module:function`, or null to
run it as a script), `program` (path of its source), `user` (user id to take on, or null), `limits` (values of resource
limits by name) and `descriptors` (open file descriptors by name). A byte written to the descriptor `ready` tells the
parent that the limits are set and that foreign code starts.
"""

import importlib
import json
import os
import resource
import site
import sys
import types
from collections.abc import Callable
from typing import Any


def main() -> None:
    """Run the program as the settings say."""
    settings = json.loads(sys.argv[1])
    sys.argv = [settings["program"]]
    for variable in [name for name in os.environ if name.startswith(("PYTHON", "LD_"))]:
        del os.environ[variable]
    descriptors = settings["descriptors"]
    run = _runner(settings["runner"])
    _restrict(settings["user"], settings["limits"])
    os.write(descriptors["ready"], b"1")
    os.close(descriptors["ready"])
    run(settings["program"], descriptors)


def _runner(name: str | None) -> Callable[[str, dict[str, int]], None]:
    if name is None:
        site.setquit()  # `exit()` and `quit()`, which `python -S` leaves out
        return _run_script
    module, _, function = name.partition(":")
    runner: Callable[[str, dict[str, int]], None] = getattr(importlib.import_module(module), function)
    return runner


def _restrict(user: int | None, limits: dict[str, int]) -> None:
    if user is not None:
        os.setgroups([])
        os.setgid(user)
        os.setuid(user)
    try:
        with open("/proc/self/oom_score_adj", "w") as file:  # noqa: PTH123  (pathlib takes milliseconds to import)
            file.write("1000")
    except OSError:
        pass  # this is only a wish: that the kernel, out of memory, ends this program before any other
    most = resource.getrlimit(resource.RLIMIT_STACK)[1]
    resource.setrlimit(resource.RLIMIT_STACK, (most, most))  # deep recursion is limited by memory alone
    for name, value in limits.items():
        resource.setrlimit(getattr(resource, name), (value, value))


def _run_script(path: str, descriptors: dict[str, int]) -> None:
    with open(path, "rb") as file:  # noqa: PTH123
        source = file.read()
    module: Any = types.ModuleType("__main__")
    module.__file__ = path
    sys.modules["__main__"] = module
    exec(compile(source, path, "exec"), module.__dict__)


if __name__ == "__main__":
    main()
