"""Reading a run's configuration with TRL's parser: a YAML file or a recipe, with overrides from the command line."""

import argparse
import difflib
import os
import re
from collections.abc import Collection, Iterable, Sequence
from enum import Enum
from importlib.resources import files
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, NoReturn, Union, get_args, get_origin, get_type_hints

from trl import TrlParser
from typing_extensions import override

from effopd.checks import check_choice
from effopd.errors import ConfigurationError
from effopd.files import read_yaml
from effopd.training.config import Method, OPDConfig, RunArguments
from effopd.training.rl_config import RL_METHODS, RLConfig, TrainConfig

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


def parse_config(config: str, overrides: Sequence[str] = ()) -> tuple[RunArguments, TrainConfig]:
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
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise ConfigurationError(f"{path} must map fields to values, got {type(content).__name__}.")
    known = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    known.add_argument("--method", default=content.get("method"))
    method = known.parse_known_args(list(overrides))[0].method
    if method is not None:
        check_choice(f"{path}: method", method, (*get_args(Method), *RL_METHODS))
    kind = RLConfig if method in RL_METHODS else OPDConfig
    fields = RunArguments.__dataclass_fields__ | kind.__dataclass_fields__
    _check_file(content, path, kind, fields, method)
    parser = _Parser((RunArguments, kind), allow_abbrev=False)
    os.environ.update({str(name): str(value) for name, value in content.pop("env", {}).items()})
    parser.set_defaults_with_config(**content)
    try:
        arguments, settings, rest = parser.parse_args_into_dataclasses(list(overrides), return_remaining_strings=True)
    except argparse.ArgumentError as error:
        raise ConfigurationError(f"{path} and the command line: {error}") from error
    except (ValueError, TypeError, ImportError) as error:
        raise ConfigurationError(f"{path}: {error}") from error
    if rest:
        raise ConfigurationError(f"The command line: {_unknown(rest[0], fields, method)}")
    for name in ("target_accuracy", "stop_without_improvement"):
        if (value := getattr(arguments, name)) is not None and settings.eval_strategy == "no":
            raise ConfigurationError(
                f"{path}: {name}={value} has no effect while eval_strategy is 'no'. Set eval_strategy to steps or "
                f"epoch, or {name} to null."
            )
    return arguments, settings


class _Parser(TrlParser):
    """Raises an error where argparse would print it and end the process."""

    @override
    def error(self, message: str) -> NoReturn:
        raise argparse.ArgumentError(None, re.sub(r"(--\w+)/--[\w-]+", r"\1", message))


def _check_file(
    content: dict[Any, Any], path: Path, kind: type[TrainConfig], fields: dict[str, Any], method: Any
) -> None:
    """Check the names and types of a file's fields, of which argparse checks only those that are text."""
    hints = get_type_hints(RunArguments) | get_type_hints(kind)
    for name, value in content.items():
        if name == "env":
            if not isinstance(value, dict):
                raise ConfigurationError(f"{path}: env: got {value!r}, expected environment variables by name.")
            continue
        if name not in fields:
            raise ConfigurationError(f"{path}: {_unknown(str(name), fields, method)}")
        hint = hints[name]
        kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        choices = [
            str(member.value) for kind in kinds if isinstance(kind, type) and issubclass(kind, Enum) for member in kind
        ]
        fits = value in choices if choices else any(_fits(value, get_origin(kind) or kind) for kind in kinds)
        if not fits and not (value is None and fields[name].default is None):
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


def _unknown(name: str, fields: Collection[str], method: Any) -> str:
    """Say that no field has this name, or none of the method's, and what to do about it."""
    bare = name.lstrip("-").partition("=")[0].replace("-", "_")
    if bare in OPDConfig.__dataclass_fields__ or bare in RLConfig.__dataclass_fields__:
        return f"{bare} has no effect with method={method or 'opd'!r}; leave it out."
    close = difflib.get_close_matches(bare, fields, n=3)
    remedy = f"did you mean {' or '.join(close)}?" if close else "docs/training.md has the fields."
    return f"there is no field {name!r}; {remedy}"
