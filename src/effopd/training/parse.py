"""Reading a run's configuration: a YAML file or a shipped recipe, overridden on the command line, by TRL's parser."""

import contextlib
import io
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import yaml
from trl import TrlParser

from effopd.errors import ConfigurationError
from effopd.files import load_yaml
from effopd.training.config import OPDConfig, RunArguments


def recipes() -> list[str]:
    """Names of the recipes that ship with the package."""
    return sorted(path.name.removesuffix(".yaml") for path in (files("effopd") / "recipes").iterdir())


def parse_config(config: str, overrides: Sequence[str] = ()) -> tuple[RunArguments, OPDConfig]:
    """Read a configuration.

    Args:
        config: Path of a YAML file, or the name of a recipe.
        overrides: `--field value` pairs, stronger than the file.

    Raises:
        ConfigurationError: There is no such file or recipe, it is not YAML, or a field is unknown, missing or wrong.
    """
    path = Path(config)
    if not path.exists() and config in recipes():
        path = Path(str(files("effopd") / "recipes" / f"{config}.yaml"))
    if not path.is_file():
        raise ConfigurationError(f"There is no file {config!r}, nor a recipe of that name ({', '.join(recipes())}).")
    try:
        content = load_yaml(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is not YAML: {error}") from error
    if not isinstance(content, dict):
        raise ConfigurationError(f"{path} must map fields to values, got {type(content).__name__}.")
    usage = io.StringIO()
    try:
        with contextlib.redirect_stderr(usage):
            arguments, opd = TrlParser((RunArguments, OPDConfig)).parse_args_and_config(
                ["--config", str(path), *overrides]
            )
    except SystemExit as error:
        message = usage.getvalue().strip().splitlines()[-1:] or ["the arguments cannot be read"]
        raise ConfigurationError(f"{path}: {message[0].partition('error: ')[2] or message[0]}") from error
    except ConfigurationError:
        raise
    except (ValueError, TypeError) as error:
        raise ConfigurationError(f"{path}: {error}") from error
    return arguments, opd
