"""Comparing final answers as mathematics, by math-verify.

This may take any amount of time and memory, so only worker processes do it (see `math_worker.py`).
"""

from functools import lru_cache
from typing import Any

from math_verify import parse, verify
from math_verify.errors import TimeoutException

from effopd.grading.boxed_answer import BOXED, last_boxed, strip_box
from effopd.grading.compare_text import readable

_TAIL_LENGTH = 2000
_SMALL = 1e-3
_RELATIVE = 1e-6


def equal_values(text: str, expected: str, timeout_s: int) -> bool:
    r"""Tell whether a completion's final answer equals the expected one mathematically.

    This has to be called in the main thread, because math-verify breaks a step off by a signal.

    Args:
        text: Text of the completion. Its answer is in the last `\boxed{}`, or else the last expression near its end.
        expected: Expected answer, with or without `$...$` or `\boxed{}`.
        timeout_s: Seconds for each step of reading and comparing, at least 1.
    """
    gold = _parse_expected(expected, timeout_s)
    if not gold:
        return False
    given = last_boxed(text)
    source = readable(text[-_TAIL_LENGTH:]) if given is None else f"{BOXED}{readable(given)}}}"
    try:
        answer = _parse(source, timeout_s)
        return bool(verify(gold, answer, timeout_seconds=timeout_s)) and _of_one_size(gold[0], answer[0])
    except (Exception, TimeoutException):  # whatever made math-verify fail, the answer counts as wrong
        return False


@lru_cache(maxsize=1024)
def _parse_expected(expected: str, timeout_s: int) -> list[Any]:
    answer = readable(strip_box(expected))
    has_delimiters = any(mark in answer for mark in ("$", r"\(", r"\["))
    return _parse(answer if has_delimiters else f"{BOXED}{answer}}}", timeout_s)


def _parse(text: str, timeout_s: int) -> list[Any]:
    try:
        parsed: list[Any] = parse(text, parsing_timeout=timeout_s)
    except (Exception, TimeoutException):
        return []
    return parsed


def _of_one_size(gold: Any, given: Any) -> bool:
    """Tell whether two numbers that math-verify takes for equal are equal near zero, too.

    math-verify compares numbers to a fixed number of decimal places, so that near zero different ones are equal to it.
    """
    if not all(getattr(each, "is_number", False) for each in (gold, given)):
        return True
    gold, given = gold.doit(), given.doit()  # percentages become numbers
    return not 0 < abs(gold) < _SMALL or abs(complex(gold) - complex(given)) <= _RELATIVE * abs(complex(gold))
