"""Graders of tasks that are neither plain mathematics nor plain code. Like those, they take completions and answers."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from effopd.evaluation.extract import extract_code
from effopd.evaluation.grade_code import grade_code
from effopd.evaluation.math_text import last_boxed, strip_text_commands
from effopd.evaluation.verdict import Verdict, without_thinking
from effopd.world import answering_style, world_reward

_NAMED = re.compile(
    r"\b(?i:answer(?:\s+is)?|(?:option|choice)\s+is)[\s:*$]*(?i:(?:option|choice)\s+)?(?:\(([A-Za-z])\)|([A-H])\b(?!'))"
)
_BOXED = re.compile(
    r"[\s($]*(?:(?i:answer(?:\s+is)?|option|choice)[\s:($]+)*(?:([A-Za-z])(?=[\s)$.]*\Z|[).:])|([A-Z])(?![A-Za-z]))"
)
_FUTURE = re.compile(r"^from __future__ import .*\n?", re.MULTILINE)
_ALONE = re.compile(r"\A[\s(*$]*([A-Za-z])()[\s)*$.]*\Z")


def grade_world(completions: Sequence[str], answers: Sequence[str]) -> list[Verdict]:
    """Grade completions of the embedded world by its reward; badly formed ones are told apart from wrong ones."""
    verdicts = []
    for completion, reward in zip(completions, world_reward(completions, answers), strict=True):
        malformed = answering_style(completion) == "malformed"
        kind = "passed" if reward else "malformed" if malformed else "wrong answer"
        verdicts.append(Verdict(reward == 1.0, kind))
    return verdicts


def grade_choice(completions: Sequence[str], answers: Sequence[str]) -> list[Verdict]:
    r"""Grade multiple choice.

    After the last `</think>`, the choice is the letter in the last `\boxed{}` (`C`, `(C)`, `C. because`, `\text{C}`).
    Without a box it is the letter after the last `answer`, `answer is`, `option is` or `choice is`, upper case or in
    parentheses, or the letter that is all of the text.

    Args:
        completions: N texts.
        answers: The N right letters.
    """
    verdicts = []
    for completion, answer in zip(completions, answers, strict=True):
        choice = _choice(completion)
        if choice is None:
            verdicts.append(Verdict(False, "no answer"))
        elif choice == answer:
            verdicts.append(Verdict(True, "passed"))
        else:
            verdicts.append(Verdict(False, "wrong answer", f"got {choice}, expected {answer}"))
    return verdicts


def grade_functions(completions: Sequence[str], answers: Sequence[Mapping[str, Any]]) -> list[Verdict]:
    """Grade completions of a program's beginning, whether they repeat it or go on from it.

    The program that runs is the beginning followed by the completion's code: a function that is defined again replaces
    its stub, and imports and helpers of the beginning are there.

    Args:
        completions: N texts.
        answers: For each, `prefix`, the beginning, and `tests` as `grade_code` takes them.
    """
    programs = [
        _program(answer["prefix"], code) if (code := extract_code(completion)) else ""
        for completion, answer in zip(completions, answers, strict=True)
    ]
    return grade_code(programs, [answer["tests"] for answer in answers])


def _program(prefix: str, code: str) -> str:
    imports = "".join(_FUTURE.findall(code))  # which have to come first
    return f"```python\n{imports}{prefix}\n{_FUTURE.sub('', code)}\n```"


def _choice(text: str) -> str | None:
    text = without_thinking(text)
    boxed = last_boxed(text)
    if boxed is not None:
        match = _BOXED.match(strip_text_commands(boxed))
        return (match[1] or match[2]).upper() if match else None
    found = [*_ALONE.finditer(text), *_NAMED.finditer(text)]
    return (found[-1][1] or found[-1][2]).upper() if found else None
