r"""Final answers as text: what a `\boxed{}` holds, and what can be judged without mathematics."""

import re

BOXED = "\\boxed{"
_MAX_ANSWER_LENGTH = 500
_TEXT_COMMAND = re.compile(r"\\(?:text|mathrm|textbf|mathbf)\{([^{}]*)\}")
_WORDS = re.compile(r"[a-z][a-z ]+")


def compare_text(text: str, expected: str) -> bool | None:
    r"""Compare a completion's final answer with the expected one as text, ignoring case.

    Args:
        text: The completion.
        expected: The answer, with or without `$...$` or `\boxed{}`.

    Returns:
        Whether it is right; None if that takes mathematics.
    """
    given = last_boxed(text)
    expected_plain = _plain(last_boxed(expected) or expected)
    if _plain(text if given is None else given) == expected_plain:
        return True
    if _WORDS.fullmatch(expected_plain):  # as mathematics, `yes` is a product of three symbols
        return False
    return False if given is not None and not 0 < len(given) <= _MAX_ANSWER_LENGTH else None


def last_boxed(text: str) -> str | None:
    r"""What the last `\boxed{...}` holds; empty if it is never closed, None if there is none."""
    start = text.rfind(BOXED)
    if start < 0:
        return None
    start += len(BOXED)
    depth = 1
    for position in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            return text[start:position]
    return ""


def _plain(answer: str) -> str:
    return _TEXT_COMMAND.sub(r"\1", answer).strip(" \t\n$.").casefold()
