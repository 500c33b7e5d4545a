"""The base, the teacher and the card that come with the package: those of the default world with seed 0."""

import json
from pathlib import Path
from typing import Any

from effopd.errors import ConfigurationError, DataError

_ASSETS = Path(__file__).parent / "assets"


def base_dir() -> Path:
    """Return the directory of the shipped base, for `from_pretrained` of a model or tokenizer.

    Raises:
        DataError: The package was installed without its assets.
    """
    return _asset("base")


def teacher_dir() -> Path:
    """Return the directory of the shipped teacher, as `base_dir` does that of the base.

    Raises:
        DataError: The package was installed without its assets.
    """
    return _asset("teacher")


def model_path(name: str) -> str:
    """Replace `world:base` and `world:teacher` by the directories of the shipped models; leave other names as they are.

    Raises:
        ConfigurationError: The name begins with `world:` and is neither of the two.
        DataError: The package was installed without its assets.
    """
    if not name.startswith("world:"):
        return name
    places = {"world:base": base_dir, "world:teacher": teacher_dir}
    if name not in places:
        raise ConfigurationError(f"{name!r} is no model of the embedded world; use one of {list(places)}.")
    return str(places[name]())


def card() -> dict[str, Any]:
    """Read the card of the shipped world, which says how it was built and how accurate its models are.

    Returns:
        What `build_world` returns.

    Raises:
        DataError: The package was installed without its assets.
    """
    contents: dict[str, Any] = json.loads(_asset("card.json").read_text())
    return contents


def _asset(name: str) -> Path:
    path = _ASSETS / name
    if not path.exists():
        raise DataError(
            f"{path} is missing; expected it as part of the effopd package. Reinstall effopd, or build a world of your"
            " own with `effopd world build --out DIR`."
        )
    return path
