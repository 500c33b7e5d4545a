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
_NAMED = re.compile(r"[A-Za-z]\s*=\s*")
# `2516_8`, `-A1_{(16)}`. `*+` gives nothing back: long white space would take quadratic time.
_BASED = re.compile(r"\+?(-?)([\dA-F.]+)\s*_\s*+\{?\s*+\(?(\d+)\)?\s*\}?")
_QUANTITY = r"\d+(?:\.\d+)?"
_UNIT = r"\s*\\(?:text|textrm|mathrm)\{[^{}]*\}"
_MIXED_UNITS = re.compile(rf"{_QUANTITY}(?:{_UNIT}[\s,]*{_QUANTITY})+(?:{_UNIT})?")
_TIME_OF_DAY = re.compile(r"[\d:. ]+([ap])\.?\s?m", re.IGNORECASE)
_AFTER_COMMA = re.compile(r"(?<=,)(?:\s|\\[,;: ])+")
_BARE_POINT = re.compile(r"(?<![\w.})\]])\.(?=\d)")
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
    originals = text if boxed is None else boxed, strip_box(expected)
    given, wanted = map(_plain, originals)
    if not given or not wanted:
        return False
    fold = str.casefold if _CHOICE.fullmatch(wanted) else _fold_words
    if fold(_without_spelling(given)) == fold(_without_spelling(wanted)):
        return True
    if _WORDS.fullmatch(wanted):  # as mathematics, `yes` is a product of three symbols
        return False
    if given.casefold() == wanted.casefold():  # they differ in case only, which math-verify would ignore
        return False
    if (numbers := _digits_and_bases(given)) and numbers == _digits_and_bases(wanted):
        return True
    if _differ_where_mathematics_would_not_tell(given, wanted, *originals):
        return False
    return False if boxed is not None and len(boxed) > _MAX_ANSWER_LENGTH else None


def readable(text: str) -> str:
    r"""Write an answer, or a text that ends with one, in the form that math-verify reads.

    Currency signs (`\$`, `£`, `€`, a lone `$`), separators of thousands (`10\,000`) and a full stop at the end are
    removed; `°`, `~` and `\varnothing` become LaTeX that math-verify knows, and `.5` becomes `0.5`. A number in
    scientific notation (`1.5e20`) becomes a power of ten, and so does a small number, because math-verify compares
    decimals to six places only.
    """
    text = _CURRENCY.sub("", text)
    if text.count("$") == 1:
        text = text.replace("$", "")
    text = _THOUSANDS.sub("", text).replace(r"\!", "").replace("~", " ").replace("°", r"^\circ")
    text = _BARE_POINT.sub("0.", text.replace(r"\varnothing", r"\emptyset"))
    text = text.strip(_SPACE).rstrip(_SPACE + ".")
    number = _NUMBER.fullmatch(text)
    if number and (number[1] or 0 < abs(Decimal(text)) < _LEAST_DECIMAL):
        mantissa, _, exponent = f"{Decimal(text):E}".partition("E")
        text = rf"{mantissa} \times 10^{{{int(exponent)}}}"
    return text


def _plain(answer: str) -> str:
    return readable(strip_text_commands(answer)).lstrip(_SPACE + "$").rstrip(_SPACE + "$.")


def _differ_where_mathematics_would_not_tell(given: str, wanted: str, *originals: str) -> bool:
    """Compare what math-verify ignores: bases, all quantities but the first, and whether a time is before noon."""
    for one, other in (
        (_digits_and_bases(given), _digits_and_bases(wanted)),
        tuple(map(_quantities, originals)),
        (_half_of_day(given), _half_of_day(wanted)),
    ):
        if one and other and sorted(one) != sorted(other):
            return True
    return False


def _without_spelling(answer: str) -> str:
    """Remove a percent sign at the end and white space after commas, which do not matter."""
    answer = _AFTER_COMMA.sub("", answer)
    return answer[:-1].removesuffix("\\").rstrip() if answer.endswith("%") else answer


def _digits_and_bases(answer: str) -> list[tuple[str, str, str]] | None:
    """Split numbers such as `2516_8, 17_9` into sign, digits and base; None for any other answer."""
    answer = answer[named.end() :] if (named := _NAMED.match(answer)) else answer
    inner = answer[1:-1] if answer.startswith("(") and answer.endswith(")") else answer
    found = [_BASED.fullmatch(item.strip()) for item in inner.split(",")]
    return [(each[1], each[2].lstrip("0"), each[3].lstrip("0")) for each in found if each] if all(found) else None


def _quantities(answer: str) -> list[Decimal] | None:
    r"""List the numbers of an answer in mixed units, such as `5 \text{ feet } 3 \text{ inches}`; None for any other."""
    answer = readable(answer).strip(_SPACE + "$")
    if not _MIXED_UNITS.fullmatch(answer):
        return None
    return [Decimal(number) for number in re.findall(_QUANTITY, re.sub(_UNIT, " ", answer))]


def _half_of_day(answer: str) -> str | None:
    """Return `a` or `p` for a time such as `2:30 p.m.`; None for any other answer."""
    time = _TIME_OF_DAY.fullmatch(answer)
    return time[1].casefold() if time else None


def _fold_words(text: str) -> str:
    r"""Fold the case of words, but not of single letters (`x`) and of commands (`\Gamma`)."""
    return _LETTERS.sub(lambda found: _fold_word(found[0]), text)


def _fold_word(word: str) -> str:
    return word if len(word) == 1 or word.startswith("\\") else word.casefold()
