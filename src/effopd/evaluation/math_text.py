r"""Final answers as text: what a `\boxed{}` holds, and what can be judged without mathematics."""

import math
import re
from decimal import Decimal
from typing import Any

from effopd.errors import DataError

BOXED = "\\boxed{"
_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_MAX_ANSWER_LENGTH = 500
_TEXT_COMMAND = re.compile(r"\\(?:text|mathrm|textbf|mathbf)\{([^{}]*)\}")
_LETTERS = re.compile(r"\\?[^\W\d_]+")
_WORDS = re.compile(r"[A-Za-z][A-Za-z ]+")
_CHOICE = re.compile(r"\(?[A-E]\)?")
_THOUSANDS = re.compile(r"(?<=\d)(?:,?\\!|\\[,;: ]|~|\{,\})(?=\d{3}(?!\d))")
_CURRENCY = re.compile(r"\\\$|[£€]")
_PERCENT = re.compile(r"\s*\\?%\Z")
_NUMBER = re.compile(r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)([eE][-+]?\d{1,6})?")
_LEAST_DECIMAL = Decimal("1e-3")
_SPACE = " \t\r\n"


def check_answer(answer: Any) -> None:
    """Check an expected answer.

    Raises:
        DataError: It is no text and no finite number, or there is nothing in it to compare with.
    """
    if isinstance(answer, bool) or not isinstance(answer, str | int | float | Decimal):
        raise DataError(f"answer: got a {type(answer).__name__}, expected a text or a number.")
    if not isinstance(answer, str) and not math.isfinite(answer):
        raise DataError(f"answer: got {answer}, expected a finite number.")
    if not _plain(strip_box(str(answer))):
        raise DataError(f"answer: it is empty: got {answer!r}, expected something that a completion can be equal to.")


def compare_text(text: str, expected: str) -> bool | None:
    r"""Compare a completion's final answer with the expected one as text, ignoring the case of words.

    Args:
        text: The completion.
        expected: The answer, with or without `$...$` or `\boxed{}`.

    Returns:
        Whether it is right; None if that takes mathematics.
    """
    boxed = last_boxed(text)
    given, wanted = _plain(text if boxed is None else boxed), _plain(strip_box(expected))
    if not given or not wanted:
        return False
    fold = str.casefold if _CHOICE.fullmatch(wanted) else _fold_words
    if fold(_PERCENT.sub("", given)) == fold(_PERCENT.sub("", wanted)):
        return True
    if _WORDS.fullmatch(wanted):  # as mathematics, `yes` is a product of three symbols
        return False
    if given.casefold() == wanted.casefold():  # math-verify takes x for X
        return False
    return False if boxed is not None and len(boxed) > _MAX_ANSWER_LENGTH else None


def last_boxed(text: str) -> str | None:
    r"""What the last `\boxed{...}` (or `\fbox`) holds; empty if it is never closed, None if there is none."""
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
    r"""An expected answer without the `\boxed{}` that it may stand in."""
    boxed = last_boxed(answer)
    return answer if boxed is None else boxed


def strip_text_commands(answer: str) -> str:
    r"""What stands in `\text{}` and the like, as it is."""
    return _TEXT_COMMAND.sub(r"\1", answer)


def readable(text: str) -> str:
    r"""Write an answer, or a text with one, as math-verify reads it.

    Removed are currency signs (`\$`, `£`, `€`, a lone `$`), separators of thousands (`10\,000`) and a full stop at the
    end; `°` and `~` become LaTeX that it knows. A number in scientific notation (`1.5e20`) becomes a power of ten, and
    so does a small one: decimals are only compared to six places.
    """
    text = _CURRENCY.sub("", text)
    if text.count("$") == 1:
        text = text.replace("$", "")
    text = _THOUSANDS.sub("", text).replace(r"\!", "").replace("~", " ").replace("°", r"^\circ")
    text = text.strip(_SPACE).rstrip(_SPACE + ".")
    number = _NUMBER.fullmatch(text)
    if number and (number[1] or 0 < abs(Decimal(text)) < _LEAST_DECIMAL):
        mantissa, _, exponent = f"{Decimal(text):E}".partition("E")
        text = rf"{mantissa} \times 10^{{{int(exponent)}}}"
    return text


def _plain(answer: str) -> str:
    return readable(strip_text_commands(answer)).lstrip(_SPACE + "$").rstrip(_SPACE + "$.")


def _fold_words(text: str) -> str:
    r"""Ignore case, but not that of `\Gamma` and `x`."""
    return _LETTERS.sub(lambda found: _fold_word(found[0]), text)


def _fold_word(word: str) -> str:
    return word if len(word) == 1 or word.startswith("\\") else word.casefold()
