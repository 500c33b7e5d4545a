"""Grading programs by their tests.

    [verdict] = grade_code(["```python\nprint(int(input()) + 1)\n```"], [{"stdin": [{"input": "1", "output": "2"}]}])
    verdict.passed                                                             # True

With `stdin` tests, the program runs once for each case. It has to exit with status 0, and this process compares what it
prints with what is expected: token by token, as text, whatever white space is between them.

With `unit` tests, the program and the tests run in two sandboxes, between which only plain data passes (see
`inside/harness.py`). The program can answer what it likes, but it has no part in comparing, nor in saying that the
tests have passed.
"""

import contextlib
import json
import os
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from effopd.grading.completion import Completion, completion_text
from effopd.grading.fenced_code import extract_code
from effopd.grading.problem_tests import Tests, parse_tests
from effopd.grading.verdict import TIME_LIMIT, Verdict
from effopd.grading.worker_pool import num_processors
from effopd.sandbox import Limits, Outcome, SandboxedProcess, warn_unsafe, watch

_CANDIDATE = "effopd.grading.inside.candidate:serve"
_TESTS = "effopd.grading.inside.harness:run_tests"

_MOST_WORKERS = 32  # each needs up to twenty open files or so, and a process may commonly have 1024
_LIMIT_KINDS = {
    "time": TIME_LIMIT,
    "memory": "memory limit",
    "processes": "process limit",
    "files": "file limit",
    "output": "output limit",
    "stopped": "stopped",
}


def grade_code(
    completions: Sequence[Completion],
    tests: Sequence[Any],
    *,
    workers: int | None = None,
    limits: Limits | None = None,
    unsafe: bool = False,
) -> list[Verdict]:
    """Grade programs, several at a time.

    Args:
        completions: N texts, or N conversational completions.
        tests: Tests of the N problems, each in a form that `parse_tests` reads.
        workers: Number of programs to grade at a time; by default as many as there are processors for this process, at
            most 32.
        limits: Limits on each run of a program, where its tests do not set others; `Limits()` by default.
        unsafe: Whether to run programs without a sandbox, with all rights of this user. This warns.

    Returns:
        N verdicts.

    Raises:
        DataError: Some tests do not have the right form. Nothing has run then.
        ValueError: The numbers of completions and of tests differ.
        UnsupportedError: There is no working sandbox.
    """
    parsed = [parse_tests(each) for each in tests]
    return list(iterate_code_verdicts(completions, parsed, workers=workers, limits=limits, unsafe=unsafe))


def iterate_code_verdicts(
    completions: Sequence[Completion],
    tests: Sequence[Tests],
    *,
    workers: int | None = None,
    limits: Limits | None = None,
    unsafe: bool = False,
) -> Iterator[Verdict]:
    """Like `grade_code`, but take parsed tests, and yield each verdict as soon as it and all before it are known.

    Raises:
        ValueError: The numbers of completions and of tests differ.
        UnsupportedError: There is no working sandbox.
    """
    programs = [extract_code(completion_text(completion)) for completion in completions]
    yield from iterate_program_verdicts(programs, tests, workers=workers, limits=limits, unsafe=unsafe)


def iterate_program_verdicts(
    programs: Sequence[str],
    tests: Sequence[Tests],
    *,
    workers: int | None = None,
    limits: Limits | None = None,
    unsafe: bool = False,
) -> Iterator[Verdict]:
    """Like `iterate_code_verdicts`, but take source code as it is.

    Raises:
        ValueError: The numbers of programs and of tests differ.
        UnsupportedError: There is no working sandbox.
    """
    if unsafe:
        warn_unsafe()
    pool = ThreadPoolExecutor(workers or min(num_processors(), _MOST_WORKERS), thread_name_prefix="effopd-grade")
    limits = limits or Limits()
    stop = threading.Event()
    try:
        futures = [
            pool.submit(grade_program, program, each, limits, unsafe=unsafe, stop=stop)
            for program, each in zip(programs, tests, strict=True)
        ]
        for future in futures:
            yield future.result()
    finally:
        stop.set()  # this only matters where not all verdicts were asked for
        pool.shutdown(cancel_futures=True)


def grade_program(
    program: str, tests: Tests, limits: Limits, *, unsafe: bool = False, stop: threading.Event | None = None
) -> Verdict:
    """Grade one program.

    Args:
        program: Source code of the program.
        tests: Tests of its problem.
        limits: Limits on each run of the program, where the tests do not set others.
        unsafe: Whether to run it without a sandbox, with all rights of this user; there is no warning.
        stop: Event that another thread sets to break the grading off. The verdict means nothing then.
    """
    started = time.monotonic()
    limits = tests.limits(limits)
    if not program.strip():
        kind, detail = "no code", ""
    elif tests.unit:
        kind, detail = _run_unit_tests(program, tests, limits, unsafe, stop)
    else:
        kind, detail = _run_stdin_tests(program, tests, limits, unsafe, stop)
    return Verdict(kind == "passed", kind, detail, time.monotonic() - started)


def _run_stdin_tests(
    program: str, tests: Tests, limits: Limits, unsafe: bool, stop: threading.Event | None
) -> tuple[str, str]:
    for number, (stdin, expected) in enumerate(tests.stdin, start=1):
        with SandboxedProcess(program, limits, stdin=stdin, unsafe=unsafe) as process:
            outcome = watch([process], stop)
        problem = _problem(outcome)
        if problem is None and outcome.stdout.decode("utf-8", "replace").split() != expected.split():
            problem = "wrong answer", ""
        if problem is not None:
            kind, detail = problem
            return kind, f"case {number}" + (f", {detail}" if detail else "")
    return "passed", ""


def _run_unit_tests(
    program: str, tests: Tests, limits: Limits, unsafe: bool, stop: threading.Event | None
) -> tuple[str, str]:
    task = json.dumps({"tests": tests.unit, "names": tests.names, "modules": dict(tests.modules or {})})
    with contextlib.ExitStack() as ends_all, contextlib.ExitStack() as only_to_start:
        requests_read, requests_write = _pipe(only_to_start)
        answers_read, answers_write = _pipe(only_to_start)
        candidate = ends_all.enter_context(
            SandboxedProcess(
                program,
                limits,
                runner=_CANDIDATE,
                descriptors={"requests": requests_read, "answers": answers_write},
                unsafe=unsafe,
            )
        )
        harness = ends_all.enter_context(
            SandboxedProcess(
                task,
                limits,
                runner=_TESTS,
                descriptors={"requests": requests_write, "answers": answers_read},
                unsafe=unsafe,
            )
        )
        only_to_start.close()  # so that each process notices when the other ends
        outcome = watch([harness, candidate], stop)
    problem = _problem(outcome)
    if problem is not None:
        return problem
    try:
        verdict = json.loads(outcome.stdout)
        return str(verdict["kind"]), str(verdict["detail"])
    except (ValueError, KeyError, TypeError):
        return "runtime error", "the tests ended their own process"


def _pipe(stack: contextlib.ExitStack) -> tuple[int, int]:
    read, write = os.pipe()
    stack.callback(os.close, read)
    stack.callback(os.close, write)
    return read, write


def _problem(outcome: Outcome) -> tuple[str, str] | None:
    """Describe what went wrong in a run, by kind and detail; None if the run ended well."""
    if outcome.ended != "exited":
        return _LIMIT_KINDS[outcome.ended], ""
    if outcome.exit_code == 0:
        return None
    last_line = outcome.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
    if last_line.startswith("MemoryError"):
        return "memory limit", ""
    return "runtime error", f"exit status {outcome.exit_code}" + (f": {last_line[:200]}" if last_line else "")
