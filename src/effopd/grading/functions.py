"""Grading functions whose beginning the prompt gives, as in HumanEval."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from effopd.grading.fenced_code import extract_code
from effopd.grading.problem_tests import parse_tests
from effopd.grading.programs import iterate_program_verdicts
from effopd.grading.verdict import Verdict

_FUTURE = re.compile(r"^from __future__ import .*\n?", re.MULTILINE)


def grade_functions(completions: Sequence[str], answers: Sequence[Mapping[str, Any]]) -> list[Verdict]:
    """Grade completions of a program's beginning, whether they repeat the beginning or continue it.

    The program that runs is the beginning followed by the completion's code. So a function that the completion defines
    again replaces its stub, and the imports and helpers of the beginning are there.

    Args:
        completions: N texts.
        answers: N mappings with `prefix`, the beginning, and `tests`, in a form that `grade_code` takes.

    Returns:
        N verdicts.
    """
    programs = [
        _program(answer["prefix"], code) if (code := extract_code(completion)) else ""
        for completion, answer in zip(completions, answers, strict=True)
    ]
    return list(iterate_program_verdicts(programs, [parse_tests(answer["tests"]) for answer in answers]))


def _program(prefix: str, code: str) -> str:
    imports = "".join(_FUTURE.findall(code))  # these have to come first
    return f"{imports}{prefix}\n{_FUTURE.sub('', code)}\n"
