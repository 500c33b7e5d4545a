"""Comparing final answers as text, which settles most of them without any mathematics."""

import math
import re
from decimal import Decimal
from typing import Any

from effopd.errors import DataError
from effopd.grading.boxed_answer import last_boxed, strip_box, strip_text_commands

_MAX_ANSWER_LENGTH = 500
_LETTERS = re.compile(r"\\?[^\W\d_]+")
_WORDS = re.compile(r"[A-Za-z][A-Za-z ]+")
_CHOICE = re.compile(r"\(?[A-E]\)?")
_THOUSANDS = re.compile(r"(?<=\d)(?:,?\\!|\\[,;: ]|~|\{,\})(?=\d{3}(?!\d))")
_CURRENCY = re.compile(r"\\\$|[£€]")
_BASED = re.compile(r"(\d+)_\{?(\d+)\}?")
_PERCENT = re.compile(r"\s*\\?%\Z")
_NUMBER = re.compile(r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)([eE][-+]?\d{1,6})?")
_LEAST_DECIMAL = Decimal("1e-3")
_SPACE = " \t\r\n"


def check_answer(answer: Any) -> None:
    """Check that completions can be compared with an expected answer.

    Raises:
        DataError: It is neither a text nor a finite number, or it is empty.
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
        text: Text of the completion.
        expected: Expected answer, with or without `$...$` or `\boxed{}`.

    Returns:
        Whether the completion is right; None if only mathematics can tell.
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
    if given.casefold() == wanted.casefold():  # they differ in case only, which math-verify would ignore
        return False
    given_number, wanted_number = _digits_and_base(given), _digits_and_base(wanted)
    if given_number and wanted_number:  # math-verify would ignore the bases
        return given_number == wanted_number
    return False if boxed is not None and len(boxed) > _MAX_ANSWER_LENGTH else None


def readable(text: str) -> str:
    r"""Write an answer, or a text that ends with one, in the form that math-verify reads.

    Currency signs (`\$`, `£`, `€`, a lone `$`), separators of thousands (`10\,000`) and a full stop at the end are
    removed; `°` and `~` become LaTeX that math-verify knows. A number in scientific notation (`1.5e20`) becomes a power
    of ten, and so does a small number, because math-verify compares decimals to six places only.
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


def _digits_and_base(answer: str) -> list[str] | None:
    """Split a number such as `2516_8`; None for any other answer."""
    number = _BASED.fullmatch(answer)
    return [part.lstrip("0") for part in number.groups()] if number else None


def _fold_words(text: str) -> str:
    r"""Fold the case of words, but not of single letters (`x`) and of commands (`\Gamma`)."""
    return _LETTERS.sub(lambda found: _fold_word(found[0]), text)


def _fold_word(word: str) -> str:
    return word if len(word) == 1 or word.startswith("\\") else word.casefold()
