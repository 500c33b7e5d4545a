"""Checks of what a specification says; every error names what was got, what was expected and where."""

import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields
from typing import Any

from effopd.errors import ConfigurationError
from effopd.files import NOT_IN_NAMES, can_name_a_file, is_finite_number

_LONGEST_NAME = 100  # bytes


def check_fields(where: str, given: Mapping[Any, Any], known: type[Any]) -> None:
    """Every given field is one of a dataclass, and none without a default is missing.

    Args:
        where: Names the place in messages.
        given: Field -> value.
        known: The dataclass.

    Raises:
        ConfigurationError: A field is unknown or missing; unknown ones with the closest of the choices.
    """
    choices = {field.name: field.default is MISSING and field.default_factory is MISSING for field in fields(known)}
    for name in given:
        if name not in choices:
            close = difflib.get_close_matches(str(name), choices, n=1)
            hint = f" Did you mean {close[0]}?" if close else ""
            raise ConfigurationError(f"{where}: got the field {name!r}; expected one of {', '.join(choices)}.{hint}")
    if missing := [name for name, required in choices.items() if required and name not in given]:
        raise ConfigurationError(f"{where}: {', '.join(missing)} is missing.")


def check_choice(where: str, value: Any, choices: Iterable[str]) -> None:
    """A value is one of the choices."""
    if value not in (choices := list(choices)):
        raise ConfigurationError(f"{where}: got {value!r}; expected one of {', '.join(choices)}.")


def check_text(where: str, value: Any) -> None:
    """A value is text, and not empty."""
    if not isinstance(value, str) or not value:
        raise ConfigurationError(f"{where}: got {value!r}; expected text.")


def check_name(where: str, value: Any) -> None:
    """A value is text that can name a file."""
    check_text(where, value)
    if not can_name_a_file(value, _LONGEST_NAME):
        raise ConfigurationError(
            f"{where}: got the name {value[:60]!r}; expected one that can name a file: at most {_LONGEST_NAME} bytes,"
            f" no dot in front, no line break and none of {NOT_IN_NAMES} in it."
        )


def check_whole(where: str, value: Any, at_least: int) -> None:
    """A value is a whole number, not below a bound, and has a place in a file of results."""
    if isinstance(value, bool) or not isinstance(value, int) or not at_least <= value < 2**63:
        raise ConfigurationError(f"{where}: got {value!r}; expected a whole number, at least {at_least}, below 2**63.")


def check_number(where: str, value: Any, low: float = -math.inf, high: float = math.inf) -> None:
    """A value is a finite number from `low` to `high`."""
    if not is_finite_number(value) or not low <= value <= high:
        bounds = "" if math.isinf(low) and math.isinf(high) else f" from {low:g} to {high:g}"
        raise ConfigurationError(f"{where}: got {value!r}; expected a finite number{bounds}.")


def listed(where: str, value: Any) -> tuple[Any, ...]:
    """A list of different entries, as a tuple.

    Raises:
        ConfigurationError: It is no list, is empty, or has an entry twice.
    """
    if not isinstance(value, list | tuple) or not value:
        raise ConfigurationError(f"{where}: got {value!r}; expected a list of at least one entry, [a, b, ...].")
    for index, entry in enumerate(value):
        if entry in value[:index]:
            raise ConfigurationError(f"{where}: got {entry!r} twice; expected each once.")
    return tuple(value)


def thin(entries: tuple[Any, ...], most: int | None) -> tuple[Any, ...]:
    """At most so many entries, evenly spaced, the first and the last among them (the last alone for one)."""
    if most is None or len(entries) <= most:
        return entries
    if most == 1:
        return entries[-1:]
    return tuple(entries[round(index * (len(entries) - 1) / (most - 1))] for index in range(most))
