"""Grading multiple choice by the chosen letter."""

import re
from collections.abc import Sequence

from effopd.grading.boxed_answer import last_boxed, strip_text_commands
from effopd.grading.completion import without_thinking
from effopd.grading.verdict import Verdict

_NAMED = re.compile(
    r"\b(?i:answer(?:\s+is)?|(?:option|choice)\s+is)[\s:*$]*(?i:(?:option|choice)\s+)?(?:\(([A-Za-z])\)|([A-H])\b(?!'))"
    r"(?![\s*$]+is\s+(?:wrong|incorrect|false|not\s+(?:right|correct|true))\b)"
)
_BOXED = re.compile(
    r"[\s($*\[]*(?:(?i:answer(?:\s+is)?|option|choice)[\s:($*\[]+)*"
    r"(?:([A-Za-z])(?=[\s)$.*\]]*\Z|[).:\]])|([A-Z])(?![A-Za-z]))"
)
_JOINING = r"(?:[,;/&]|(?:and|or)\b)"
_ANOTHER = re.compile(  # what follows the first of several letters: `, B`, `) or (C)`
    rf"[\s).$\\*\]]*(?:{_JOINING}[\s($\\*\[]*)+(?i:(?:option|choice)\s+)?"
    rf"(?:[B-H]\b|[A-Za-z](?=[\s).$\\*\]]*(?:\Z|{_JOINING})))"
)
_ALONE = re.compile(r"\A[\s(*$\[]*([A-Za-z])()[\s)*$.\]]*\Z")


def grade_choice(completions: Sequence[str], answers: Sequence[str]) -> list[Verdict]:
    r"""Grade multiple choice.

    Only what follows the last `</think>` counts. The choice is the letter in the last `\boxed{}` (`C`, `(C)`,
    `[C]`, `**C**`, `C. because`, `\text{C}`); a box that names several (`A or C`) is no answer. Without a box, it is
    the letter after the last `answer`, `answer is`, `option is` or `choice is`, if that is in upper case or in
    parentheses, and if the text does not go on to call it wrong (`the answer A is wrong`); or a single letter that is
    the whole text.

    Args:
        completions: N texts.
        answers: N right letters.

    Returns:
        N verdicts.
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


def _choice(text: str) -> str | None:
    text = without_thinking(text)
    boxed = last_boxed(text)
    if boxed is not None:
        boxed = strip_text_commands(boxed)
        match = _BOXED.match(boxed)
        return (match[1] or match[2]).upper() if match and not _ANOTHER.match(boxed, match.end()) else None
    text = strip_text_commands(text)
    found = [*_ALONE.finditer(text), *_NAMED.finditer(text)]
    return (found[-1][1] or found[-1][2]).upper() if found else None
