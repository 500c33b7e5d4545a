"""Checks of the values that users give. Every failed check raises `ConfigurationError`: `name: got X, expected Y.`

The name comes first, so that a caller can say where the value was: `check_whole("sweeps, entry 2: seeds", -1, 0)`.
"""

import difflib
import math
import sys
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields
from numbers import Integral
from typing import Any, TypeGuard

from effopd.errors import ConfigurationError

NOT_IN_NAMES = '/\\:*?"<>|'
"""Characters that some file system forbids in the name of a file."""

MAX_WHOLE = 2**63 - 1
"""Largest whole number that a column of a table can hold."""


def check_number(
    name: str,
    value: Any,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    above: float = -math.inf,
    below: float = math.inf,
    remedy: str = "",
) -> None:
    """Check that a value is a finite number within bounds.

    Args:
        name: Name of the value in the message.
        value: Value to check.
        low: Least number that is allowed.
        high: Greatest number that is allowed.
        above: Number that the value has to exceed.
        below: Number that the value has to stay under.
        remedy: Sentence at the end of the message that says what to do.

    Raises:
        ConfigurationError: The value is no finite number, or it is out of its bounds.
    """
    if is_finite_number(value) and low <= value <= high and above < value < below:
        return
    if low > -math.inf and high < math.inf:
        bounds = f" from {low:g} to {high:g}"
    else:
        words = {"at least": low, "above": above, "at most": high, "below": below}
        finite = [f"{word} {bound:g}" for word, bound in words.items() if math.isfinite(bound)]
        bounds = f", {' and '.join(finite)}" if finite else ""
    raise ConfigurationError(f"{name}: got {value!r}, expected a finite number{bounds}. {remedy}".rstrip())


def check_whole(name: str, value: Any, low: int, high: int = MAX_WHOLE, *, remedy: str = "") -> None:
    """Check that a value is a whole number, at least `low` and at most `high`; True and False are none.

    The message ends with the remedy.

    Raises:
        ConfigurationError: It is not.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or int(value) < low:
        raise ConfigurationError(f"{name}: got {value!r}, expected a whole number of at least {low}. {remedy}".rstrip())
    if int(value) > high:
        raise ConfigurationError(f"{name}: got {value!r}, expected a whole number of at most {high}. {remedy}".rstrip())


def check_choice(name: str, value: Any, choices: Iterable[str]) -> None:
    """Check that a value is one of the choices.

    Raises:
        ConfigurationError: It is not.
    """
    if value not in (choices := list(choices)):
        raise ConfigurationError(f"{name}: got {value!r}, expected one of {', '.join(choices)}.")


def check_text(name: str, value: Any) -> None:
    """Check that a value is text, and not empty.

    Raises:
        ConfigurationError: It is not.
    """
    if not isinstance(value, str) or not value:
        raise ConfigurationError(f"{name}: got {value!r}, expected text.")


def check_file_name(name: str, value: Any, longest: int) -> None:
    """Check that a text can name a visible file or directory on any file system.

    Args:
        name: Name of the value in the message.
        value: Value to check.
        longest: Largest number of bytes in UTF-8.

    Raises:
        ConfigurationError: It cannot.
    """
    is_text = isinstance(value, str) and value.isprintable() and 0 < len(value.encode()) <= longest
    if not is_text or value.startswith(".") or set(value) & set(NOT_IN_NAMES):
        raise ConfigurationError(
            f"{name}: got {str(value)[:60]!r}, expected text that can name a file: at most {longest} bytes, no dot in"
            f" front, no line break and none of {NOT_IN_NAMES} in it."
        )


def check_list(name: str, value: Any) -> tuple[Any, ...]:
    """Check that a value is a list of different entries, at least one of them.

    Returns:
        The entries as a tuple.

    Raises:
        ConfigurationError: It is no list, it is empty, or it has an entry twice.
    """
    if not isinstance(value, list | tuple) or not value:
        raise ConfigurationError(f"{name}: got {value!r}, expected a list of at least one entry, [a, b, ...].")
    for index, entry in enumerate(value):
        if entry in value[:index]:
            raise ConfigurationError(f"{name}: got {entry!r} twice, expected each entry once.")
    return tuple(value)


def check_fields(name: str, given: Mapping[Any, Any], known: type[Any]) -> None:
    """Check that given fields are fields of a dataclass, and that none is missing that has no default.

    Args:
        name: Name in the message of what has the fields.
        given: Values by field name.
        known: The dataclass.

    Raises:
        ConfigurationError: A field is unknown or missing. For an unknown one, the message names the closest known one.
    """
    choices = {field.name: field.default is MISSING and field.default_factory is MISSING for field in fields(known)}
    for field in given:
        if field not in choices:
            close = difflib.get_close_matches(str(field), choices, n=1)
            hint = f" Did you mean {close[0]}?" if close else ""
            expected = f"one of {', '.join(choices)}" if choices else "none"
            raise ConfigurationError(f"{name}: got the field {field!r}, expected {expected}.{hint}")
    if missing := [field for field, required in choices.items() if required and field not in given]:
        raise ConfigurationError(f"{name}: {', '.join(missing)} is missing.")


def is_finite_number(value: object) -> TypeGuard[float]:
    """Tell whether a value of a JSON or YAML file is a number that a float can hold. True and False are none."""
    most = sys.float_info.max  # whole numbers may be larger, and math.isfinite() would raise on them
    return isinstance(value, int | float) and not isinstance(value, bool) and -most <= value <= most
