"""What the commands share: parsers, types of options, and options made from the fields of a dataclass."""

import argparse
import dataclasses
import json
from collections.abc import Callable
from types import NoneType
from typing import Any, get_args, get_type_hints

from typing_extensions import override

from effopd.errors import ConfigurationError

Commands = Any
"""The action to which a command adds its parser, with `add_parser`. argparse has no public name for its type."""


class CommandParser(argparse.ArgumentParser):
    """A parser whose arguments may be added only when it is used.

    Attributes:
        fill: Function that adds the arguments. It may import what other commands need not wait for.
    """

    fill: Callable[[argparse.ArgumentParser], None] | None = None

    @override
    def parse_known_args(self, *args: Any, **kwargs: Any) -> Any:
        if self.fill is not None:
            fill, self.fill = self.fill, None
            fill(self)
        return super().parse_known_args(*args, **kwargs)


def add_field_options(parser: argparse.ArgumentParser, settings: type[Any]) -> None:
    """Add one option for each field of a dataclass: `half_width: int = 8` becomes `--half-width`.

    The type follows from the annotation: whole and decimal numbers and booleans are parsed, and everything else is
    text, which the dataclass checks. A field without a default is required. Help and metavar come from the field's
    metadata.

    Args:
        parser: The parser that gets the options.
        settings: A dataclass.
    """
    hints = get_type_hints(settings)
    for field in dataclasses.fields(settings):
        hint = hints[field.name]
        if NoneType in (parts := get_args(hint)) and len(parts) == 2:  # `float | None` takes a number
            hint = next(part for part in parts if part is not NoneType)
        if hint is bool:
            details: dict[str, Any] = {"action": argparse.BooleanOptionalAction}
        else:
            details = {"type": hint if hint in (int, float) else str, "metavar": field.metadata.get("metavar")}
        required = field.default is dataclasses.MISSING
        parser.add_argument(
            f"--{field.name.replace('_', '-')}",
            required=required,
            default=None if required else field.default,
            help=field.metadata.get("help"),
            **details,
        )


def field_values(options: argparse.Namespace, settings: type[Any]) -> dict[str, Any]:
    """Take the values of the options that `add_field_options` added, by field name."""
    return {field.name: getattr(options, field.name) for field in dataclasses.fields(settings)}


def keywords(options: argparse.Namespace) -> dict[str, Any]:
    """Take a command's options as keyword arguments of a library function whose parameters have the same names."""
    return {name: value for name, value in vars(options).items() if name not in ("command", "call")}


def named_places(text: str) -> tuple[str, str | list[str]]:
    """Parse `NAME=DIR` or `NAME=DIR,DIR,...` into the name and the directory, or a list of several."""
    name, equals, places = text.partition("=")
    directories = places.split(",")
    if not equals or not name or not all(directories):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=DIR or NAME=DIR,DIR,...")
    return name, directories[0] if len(directories) == 1 else directories


def by_name(pairs: list[tuple[str, str | list[str]]], what: str) -> dict[str, str | list[str]]:
    """Turn what `named_places` parsed into a mapping.

    Raises:
        ConfigurationError: A name occurs twice.
    """
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        raise ConfigurationError(
            f"Got the {what} names {', '.join(names)}; expected each once. Join paths with commas."
        )
    return dict(pairs)


def not_negative(text: str) -> int:
    """Parse a whole number of at least 0."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a whole number of at least 0")
    return int(text)


def json_object(text: str) -> dict[str, Any]:
    """Parse a JSON object."""
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise argparse.ArgumentTypeError(f'got {text!r}, expected a JSON object such as {{"enable_thinking": false}}')
    return found


def positive(text: str) -> int:
    """Parse a whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a whole number of at least 1")
    return int(text)
