"""The tests' side of unit tests: it runs them in a process that no object and no code of the candidate ever enters.

The names that the tests use without defining them are the candidate's. Here they are copies of plain data or stand-ins
(see `stand_ins.py`), so that the candidate has no part in any comparison.
"""

import importlib
import inspect
import json
import linecache
import os
import sys
import traceback
import types
import unittest
from typing import Any

from effopd.grading.inside.channel import Channel
from effopd.grading.inside.stand_ins import Abort, CandidateProxy


def run_tests(path: str, descriptors: dict[str, int]) -> None:
    """Run tests against the candidate, and write `{"kind": ..., "detail": ...}`, and nothing else, to standard output.

    Args:
        path: Path of a JSON file with `tests` (their source), `names` (those that they take from the candidate) and
            `modules` (what they use without importing it: for each name, `module` or `module:attribute`).
        descriptors: File descriptors `requests`, to write to, and `answers`, to read from.
    """
    with open(path, encoding="utf-8") as file:  # noqa: PTH123
        task = json.load(file)
    verdict_descriptor = os.dup(1)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    candidate = CandidateProxy(Channel(descriptors["answers"], descriptors["requests"]))
    kind, detail = _judge(task["tests"], task["names"], task["modules"], candidate)
    if candidate.failure is not None:
        kind, detail = candidate.failure
    elif kind == "passed" and not candidate.uses:
        kind, detail = "unsupported", "the tests did not use anything of the program"
    os.write(verdict_descriptor, json.dumps({"kind": kind, "detail": detail[:500]}).encode())


def _judge(tests: str, names: list[str], modules: dict[str, str], candidate: CandidateProxy) -> tuple[str, str]:
    linecache.cache["<tests>"] = (len(tests), None, tests.splitlines(keepends=True), "<tests>")
    module: Any = types.ModuleType("tests")
    try:
        candidate.load()
        for name in names:
            candidate.provide(name, module.__dict__)
        for name, source in modules.items():
            parent, _, attribute = source.partition(":")
            imported = importlib.import_module(parent)
            setattr(module, name, getattr(imported, attribute) if attribute else imported)
        solution = types.ModuleType("solution")
        solution.__getattr__ = candidate.attribute  # type: ignore[method-assign]
        sys.modules["solution"], sys.modules["tests"] = solution, module
        sys.modules["__main__"] = module  # where `unittest.main()` looks
        exec(compile(tests, "<tests>", "exec"), module.__dict__)
        _run_test_functions(module)
        _run_test_cases(module)
    except Abort as error:
        return "unsupported", str(error)
    except SystemExit as error:
        return ("passed", "") if error.code in (None, 0) else ("wrong answer", f"the tests exit with {error.code!r}")
    except AssertionError as error:
        return "wrong answer", _failed_line(error)
    except BaseException as error:
        return "runtime error", f"{type(error).__name__}: {error}, at {_failed_line(error)}"
    return "passed", ""


def _run_test_functions(module: types.ModuleType) -> None:
    """Call the functions that pytest would call: those named `test...` that need no argument."""
    for name, function in list(vars(module).items()):
        if name.startswith("test") and isinstance(function, types.FunctionType):
            parameters = inspect.signature(function).parameters.values()
            if all(parameter.default is not parameter.empty for parameter in parameters):
                function()


def _run_test_cases(module: types.ModuleType) -> None:
    suite = unittest.defaultTestLoader.loadTestsFromModule(module)
    result = unittest.TestResult()
    suite.run(result)
    if result.failures or result.errors or result.unexpectedSuccesses:
        problems = [*result.failures, *result.errors]
        text = problems[0][1].strip().splitlines()[-1] if problems else "a test passed that should not"
        raise AssertionError(text)


def _failed_line(error: BaseException) -> str:
    lines = [frame.line for frame in traceback.extract_tb(error.__traceback__) if frame.filename == "<tests>"]
    return str(lines[-1]) if lines and lines[-1] else str(error)
