"""Reading a run's configuration with TRL's parser: a YAML file or a recipe, with overrides from the command line."""

import argparse
import difflib
import re
from collections.abc import Iterable, Sequence
from enum import Enum
from importlib.resources import files
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, NoReturn, Union, get_args, get_origin, get_type_hints

import yaml
from trl import TrlParser
from typing_extensions import override

from effopd.errors import ConfigurationError
from effopd.files import load_yaml
from effopd.training.config import OPDConfig, RunArguments

_CLASSES = (RunArguments, OPDConfig)
_FIELDS = {name: field for each in _CLASSES for name, field in each.__dataclass_fields__.items()}
_WORDS: dict[type, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text (in quotes, if YAML takes it for something else)",
    list: "a list of texts",
    dict: "settings by name",
    NoneType: "null",
}


def recipes() -> list[str]:
    """List the names of the recipes that come with the package."""
    return sorted(path.name.removesuffix(".yaml") for path in (files("effopd") / "recipes").iterdir())


def parse_config(config: str, overrides: Sequence[str] = ()) -> tuple[RunArguments, OPDConfig]:
    """Read a configuration.

    Args:
        config: Path of a YAML file, or name of a recipe.
        overrides: Words of the command line, `--field`, `value` and so on, which take precedence over the file.

    Returns:
        The arguments of the run, and the settings of its training.

    Raises:
        ConfigurationError: There is no such file or recipe, it is not YAML, or a field is unknown, missing or wrong.
    """
    path = Path(config)
    if not path.is_file() and config in recipes():  # a folder of that name may be there too
        path = Path(str(files("effopd") / "recipes" / f"{config}.yaml"))
    if not path.is_file():
        raise ConfigurationError(f"There is no file {config!r}, nor a recipe of that name ({', '.join(recipes())}).")
    try:
        content = load_yaml(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is not YAML: {error}") from error
    if not isinstance(content, dict):
        raise ConfigurationError(f"{path} must map fields to values, got {type(content).__name__}.")
    _check_file(content, path)
    try:
        arguments, opd, rest = _Parser(_CLASSES, allow_abbrev=False).parse_args_and_config(
            ["--config", str(path), *overrides], return_remaining_strings=True
        )
    except argparse.ArgumentError as error:
        raise ConfigurationError(f"{path} and the command line: {error}") from error
    except (ValueError, TypeError, ImportError) as error:
        raise ConfigurationError(f"{path}: {error}") from error
    if rest:
        raise ConfigurationError(f"The command line: {_unknown(rest[0])}")
    if arguments.target_accuracy is not None and opd.eval_strategy == "no":
        raise ConfigurationError(
            f"{path}: target_accuracy={arguments.target_accuracy} has no effect while eval_strategy is 'no'. Set "
            "eval_strategy to steps or epoch, or target_accuracy to null."
        )
    return arguments, opd


class _Parser(TrlParser):
    """Raises an error where argparse would print it and end the process."""

    @override
    def error(self, message: str) -> NoReturn:
        raise argparse.ArgumentError(None, re.sub(r"(--\w+)/--[\w-]+", r"\1", message))


def _check_file(content: dict[Any, Any], path: Path) -> None:
    """Check the names and types of a file's fields, of which argparse checks only those that are text."""
    hints = get_type_hints(RunArguments) | get_type_hints(OPDConfig)
    for name, value in content.items():
        if name == "env":  # environment variables, which TRL sets
            continue
        if name not in _FIELDS:
            raise ConfigurationError(f"{path}: {_unknown(str(name))}")
        hint = hints[name]
        kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        choices = [
            str(member.value) for kind in kinds if isinstance(kind, type) and issubclass(kind, Enum) for member in kind
        ]
        fits = value in choices if choices else any(_fits(value, get_origin(kind) or kind) for kind in kinds)
        if not fits and not (value is None and _FIELDS[name].default is None):
            words = f"one of {', '.join(map(repr, choices))}, in quotes" if choices else _expected(kinds)
            raise ConfigurationError(f"{path}: {name}: got {value!r}, expected {words}.")


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value is of a type, or is text that argparse reads as one, such as a number in quotes."""
    if kind not in _WORDS:
        return True  # TRL checks the others
    if kind is list:
        return isinstance(value, str) or (isinstance(value, list) and all(isinstance(each, str) for each in value))
    if kind is bool and isinstance(value, str):
        return value.lower() in ("yes", "true", "t", "y", "1", "no", "false", "f", "n", "0")
    if kind in (int, float):
        if isinstance(value, str):
            try:
                kind(value)
            except ValueError:
                return False
            return True
        return isinstance(value, (int, kind)) and not isinstance(value, bool)
    return isinstance(value, kind)


def _expected(kinds: Iterable[Any]) -> str:
    """Say in words which types a field may have."""
    names = [_WORDS[kind] for each in kinds if (kind := get_origin(each) or each) in _WORDS and kind is not NoneType]
    return " or ".join(names)


def _unknown(name: str) -> str:
    """Say that no field has this name, and what to do about it."""
    bare = name.lstrip("-").partition("=")[0].replace("-", "_")
    close = difflib.get_close_matches(bare, _FIELDS, n=3)
    remedy = f"did you mean {' or '.join(close)}?" if close else "docs/training.md has the fields."
    return f"there is no field {name!r}; {remedy}"
