"""Where a named world's base, teacher and card are: in the package, or where `effopd world build` put them.

Worlds that do not come with the package are built into the directory `worlds` of `$EFFOPD_HOME`, or of
`~/.cache/effopd` where that variable is not set.
"""

import os
from pathlib import Path
from typing import Any

from effopd.errors import ConfigurationError, DataError
from effopd.files import read_json
from effopd.world.worlds import DEFAULT_WORLD, WORLDS, split_name, world_settings

_ASSETS = Path(__file__).parent / "assets"


def base_dir(name: str = DEFAULT_WORLD) -> Path:
    """Return the directory of a world's base, for `from_pretrained` of a model or tokenizer.

    Args:
        name: Name of the world, a key of `WORLDS`.

    Raises:
        ConfigurationError: There is no world of this name.
        DataError: The world is not built.
    """
    return _find(name, "base")


def teacher_dir(name: str = DEFAULT_WORLD) -> Path:
    """Return the directory of a world's teacher, as `base_dir` does that of the base.

    Args:
        name: Name of the world, a key of `WORLDS`.

    Raises:
        ConfigurationError: There is no world of this name.
        DataError: The world is not built.
    """
    return _find(name, "teacher")


def model_path(name: str) -> str:
    """Replace `world:base`, `world:facts/teacher` and the like by directories; leave other names as they are.

    Raises:
        ConfigurationError: The name begins with `world:`, and there is no such model.
        DataError: The world is not built.
    """
    if not name.startswith("world:"):
        return name
    world, model = split_name(name)
    if model not in ("base", "teacher"):
        names = "world:base, world:teacher, or world:WORLD/base and world:WORLD/teacher"
        raise ConfigurationError(
            f"{name!r} is no model of an embedded world; use one of {names}, where WORLD is one of {', '.join(WORLDS)}."
        )
    return str(_find(world, model))


def card(name: str = DEFAULT_WORLD) -> dict[str, Any]:
    """Read the card of a world, which says how it was built and what was measured on its models.

    Args:
        name: Name of the world, a key of `WORLDS`.

    Returns:
        What `build_world` returns.

    Raises:
        ConfigurationError: There is no world of this name.
        DataError: The world is not built.
    """
    return read_json(_find(name, "card.json"))


def shipped_dir(name: str) -> Path:
    """Return the directory of a world within the package, which is there only if the world comes with the package."""
    return _ASSETS if name == DEFAULT_WORLD else _ASSETS / name


def cache_dir(name: str) -> Path:
    """Return the directory that `effopd world build --name NAME` builds a world into, by default."""
    home = os.environ.get("EFFOPD_HOME")
    return (Path(home) if home else Path.home() / ".cache" / "effopd") / "worlds" / name


def _find(name: str, part: str) -> Path:
    world_settings(name)
    places = [shipped_dir(name) / part, cache_dir(name) / part]
    for place in places:
        if place.exists():
            return place
    raise DataError(
        f"The world {name!r} is not built: {places[0]} and {places[1]} are missing. Build it with"
        f" `effopd world build --name {name}`."
    )
