"""The base, the teacher and the card that come with the package: the default world, seed 0."""

import json
from pathlib import Path
from typing import Any

from effopd.errors import ConfigurationError, DataError

_ASSETS = Path(__file__).parent / "assets"


def base_dir() -> Path:
    """Directory of the shipped base, for `AutoModelForCausalLM.from_pretrained` and `AutoTokenizer`.

    Raises:
        DataError: The package was installed without its assets.
    """
    return _asset("base")


def teacher_dir() -> Path:
    """Directory of the shipped teacher (see `base_dir`)."""
    return _asset("teacher")


def model_path(name: str) -> str:
    """A model's directory or hub name, where `world:base` and `world:teacher` are the shipped ones.

    Raises:
        ConfigurationError: Another name that begins with `world:`.
    """
    if not name.startswith("world:"):
        return name
    places = {"world:base": base_dir, "world:teacher": teacher_dir}
    if name not in places:
        raise ConfigurationError(f"{name!r} is no model of the embedded world; use one of {list(places)}.")
    return str(places[name]())


def card() -> dict[str, Any]:
    """The shipped world's card: how it was built, and the accuracies measured (see `build_world`)."""
    contents: dict[str, Any] = json.loads(_asset("card.json").read_text())
    return contents


def _asset(name: str) -> Path:
    path = _ASSETS / name
    if not path.exists():
        raise DataError(
            f"{path} is missing, expected as part of the effopd package; reinstall effopd, or build a world of"
            " your own with `effopd world build --out DIR`"
        )
    return path
