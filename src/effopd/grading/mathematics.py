r"""Grading mathematics by the final answer.

    [verdict] = grade_math([r"so it is \boxed{0.5}"], [r"\frac{1}{2}"])
    verdict.passed                                                             # True

Answers are compared as text first. Where that does not tell, math-verify compares them, in worker processes with a
deadline and limited memory, because SymPy can be led into computations that no signal interrupts.
"""

import atexit
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from effopd.extras import require
from effopd.grading.boxed_answer import last_boxed
from effopd.grading.compare_text import compare_text
from effopd.grading.completion import Completion, completion_text, without_thinking
from effopd.grading.verdict import TIME_LIMIT, Verdict
from effopd.grading.worker_pool import Reply, WorkerPool, num_processors

_SCRIPT = Path(__file__).parent / "math_worker.py"
_MEMORY_MB = 2048
_MOST_WORKERS = 8
_TAIL_LENGTH = 4000
_pools: dict[tuple[int, int], WorkerPool] = {}
_lock = threading.Lock()


def grade_math(
    completions: Sequence[Completion], answers: Sequence[Any], *, workers: int | None = None, timeout_s: int = 5
) -> list[Verdict]:
    r"""Grade final answers, several at a time.

    The final answer is what the last `\boxed{}` after the last `</think>` holds. If that box is never closed, there is
    no answer. If there is no box, math-verify looks for the answer: mostly it is what follows "answer is", or the last
    expression. Expected answers that are words (`Yes`) are compared as text only, ignoring case, and so are those that
    math-verify cannot read. An answer of more than 500 characters equals only itself.

    Args:
        completions: N texts, or N conversational completions.
        answers: N expected answers: `42`, `\frac{1}{2}`, or anything with its own `$...$` or `\boxed{}`.
        workers: Number of processes that compare; by default as many as there are processors for this process, at most
            8. They stay for the next call, and end with this process.
        timeout_s: Seconds for each step of a comparison, at least 1. A comparison that takes one second more than one
            and a half times as long in all is ended by killing its process.

    Returns:
        N verdicts.

    Raises:
        ValueError: The numbers of completions and of answers differ.
        MissingPackageError: math-verify is not installed.
        UnsupportedError: Worker processes do not start.
    """
    size = workers or _default_workers()
    with _lock:
        if (os.getpid(), size) not in _pools:
            pool = _pools[os.getpid(), size] = _new_pool(size)
            atexit.register(pool.close)
        return list(_iterate(completions, answers, _pools[os.getpid(), size], timeout_s))


def iterate_math_verdicts(
    completions: Sequence[Completion], answers: Sequence[Any], *, workers: int | None = None, timeout_s: int = 5
) -> Iterator[Verdict]:
    """Like `grade_math`, but yield each verdict as soon as it and all before it are known.

    The processes that compare end with the iteration.
    """
    pool = _new_pool(workers or _default_workers())
    try:
        yield from _iterate(completions, answers, pool, timeout_s)
    finally:
        pool.close()


def _new_pool(size: int) -> WorkerPool:
    require("math_verify", "Grading mathematics")
    return WorkerPool(_SCRIPT, [str(_MEMORY_MB)], size)


def _iterate(
    completions: Sequence[Completion], answers: Sequence[Any], pool: WorkerPool, timeout_s: int
) -> Iterator[Verdict]:
    texts = [without_thinking(completion_text(completion)) for completion in completions]
    expected = [str(answer) for answer in answers]
    by_text = [compare_text(*pair) for pair in zip(texts, expected, strict=True)]
    deadline_s = 1.5 * timeout_s + 1
    tasks = [
        [_answering_part(text), answer, timeout_s, deadline_s]
        for text, answer, equal in zip(texts, expected, by_text, strict=True)
        if equal is None
    ]
    replies = pool.map(tasks, deadline_s)
    for text, answer, equal in zip(texts, expected, by_text, strict=True):
        reply = Reply(equal, "", 0.0) if equal is not None else next(replies)
        yield _verdict(text, answer, reply, timeout_s)


def _verdict(text: str, expected: str, reply: Reply, timeout_s: int) -> Verdict:
    seconds = reply.seconds
    if reply.value:
        return Verdict(True, "passed", seconds=seconds)
    if reply.lost == "crashed":
        return Verdict(False, "crashed", "the comparison ran out of memory or stack", seconds)
    if reply.lost or seconds >= timeout_s:
        return Verdict(False, TIME_LIMIT, "of the comparison", seconds)
    given = last_boxed(text)
    if not (text if given is None else given).strip():
        detail = "there is no text" if given is None else r"\boxed{} is empty, or never closed"
        return Verdict(False, "no answer", detail, seconds)
    got = "the last expression of the text" if given is None else _shorten(given)
    return Verdict(False, "wrong answer", f"got {got}, expected {_shorten(expected)}", seconds)


def _answering_part(text: str) -> str:
    r"""Return the part of a completion that is compared, which is its last `\boxed{}` or its end."""
    given = last_boxed(text)
    return text[-_TAIL_LENGTH:] if given is None else rf"\boxed{{{given}}}"


def _shorten(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:77]}..."


def _default_workers() -> int:
    return min(num_processors(), _MOST_WORKERS)
