r"""The final answer in a text: what its last `\boxed{}` holds."""

import re

BOXED = "\\boxed{"
_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_TEXT_COMMAND = re.compile(r"\\(?:text|mathrm|textbf|mathbf)\{([^{}]*)\}")


def last_boxed(text: str) -> str | None:
    r"""Return what the last `\boxed{...}` or `\fbox{...}` holds: '' if it is never closed, None if there is none."""
    start = -1
    for box in _BOX.finditer(text):
        start = box.end()
    if start < 0:
        return None
    depth = 1
    for position in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            return text[start:position]
    return ""


def strip_box(answer: str) -> str:
    r"""Take an expected answer out of its `\boxed{}` if it has one."""
    boxed = last_boxed(answer)
    return answer if boxed is None else boxed


def strip_text_commands(answer: str) -> str:
    r"""Replace `\text{}` and similar commands in an answer by their contents."""
    return _TEXT_COMMAND.sub(r"\1", answer)
