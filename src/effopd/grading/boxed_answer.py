r"""The final answer in a text: what its last `\boxed{}` holds."""

import re

BOXED = "\\boxed{"
_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)  # `\{` is no brace, but what comes after `\\` is one
_TEXT_COMMAND = re.compile(r"\\(?:(?:text|math)(?:rm|bf|it|sf)|text)\{([^{}]*)\}")
_MOST_NESTED = 3


def last_boxed(text: str) -> str | None:
    r"""Return what the last `\boxed{...}` or `\fbox{...}` holds: '' if it is never closed, None if there is none."""
    start = -1
    for box in _BOX.finditer(text):
        start = box.end()
    if start < 0:
        return None
    depth = 1
    for found in _BRACE.finditer(text, start):
        depth += {"{": 1, "}": -1}.get(found[0], 0)
        if depth == 0:
            return text[start : found.start()]
    return ""


def strip_box(answer: str) -> str:
    r"""Take an expected answer out of its `\boxed{}` if it has one."""
    boxed = last_boxed(answer)
    return answer if boxed is None else boxed


def strip_text_commands(answer: str) -> str:
    r"""Replace `\text{}` and similar commands in an answer by their contents, in one another up to three deep."""
    for _ in range(_MOST_NESTED):
        answer = _TEXT_COMMAND.sub(r"\1", answer)
    return answer
