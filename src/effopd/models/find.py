"""Where a model is: from a directory, a hub name or a name of the embedded world to the place of its files."""

import difflib
import re
from pathlib import Path

from huggingface_hub import snapshot_download

from effopd.errors import ConfigurationError, DataError
from effopd.files import expanded
from effopd.models.directory import INDEX, MODEL_FILES, WEIGHTS, check_loadable

# A name on the hub: `model` or `owner/model`. What ends like a file of data is a path, even if nothing is there.
_HUB_NAME = re.compile(r"(?!.*\.(jsonl?|parquet)$)[A-Za-z0-9_][\w.-]*(/[A-Za-z0-9_][\w.-]*)?")


def local_path(name_or_path: str | Path) -> Path | None:
    """Return the path of a file or directory that exists, or None for what can only be a name on the hub.

    Raises:
        DataError: It reads as a path (`./runs/7`, `a/b/c`, `~/x`, `data.jsonl`), and nothing is there, or no such user.
    """
    path = expanded(name_or_path)
    if path.exists():
        return path
    if isinstance(name_or_path, str) and _HUB_NAME.fullmatch(name_or_path):
        return None
    raise DataError(f"{name_or_path}: no such file or directory{_neighbours(path)}.")


def find_place(name_or_path: str | Path, revision: str | None = None) -> Path | str:
    """Find the place of a model, without looking into it and without downloading anything.

    Args:
        name_or_path: A directory, a hub name, or a model of an embedded world: `world:base`, `world:teacher`,
            `world:facts/base` and so on.
        revision: Branch, tag or commit on the hub.

    Returns:
        The path of a directory that exists; a hub name as it is.

    Raises:
        ConfigurationError: A revision is given for a directory, or the embedded world has no such model.
        DataError: There is no such directory, or it is a file.
    """
    if str(name_or_path).startswith("world:"):
        from effopd.world import model_path  # here: it loads transformers

        name_or_path = model_path(str(name_or_path))
    path = local_path(name_or_path)
    if path is None:
        return str(name_or_path)
    if revision is not None:
        raise ConfigurationError(f"revision: got {revision!r} for the directory {path}, which has none; leave it out.")
    if not path.is_dir():
        raise DataError(f"{path} is a file; expected a model directory. Pass the one that it is in: '{path.parent}'.")
    return path


def find_model(name_or_path: str | Path, revision: str | None = None) -> Path | str:
    """Find a whole model for transformers to load; cheap, so that wrong names are known before anything is loaded.

    Arguments and result are those of `find_place`.

    Raises:
        ConfigurationError: A revision is given for a directory, or the embedded world has no such model.
        DataError: There is no such directory, or it holds no whole model in safetensors (see `check_loadable`).
    """
    place = find_place(name_or_path, revision)
    if isinstance(place, Path):
        check_loadable(place)
    return place


def model_directory(name_or_path: str | Path) -> Path:
    """Find the directory of a model or adapter, without looking into it.

    Args:
        name_or_path: A directory, a hub name, or `world:base` and the like. Unless it is in the cache, the newest
            snapshot of a hub name is downloaded: its safetensors, its configs and the files of its tokenizer.

    Raises:
        ConfigurationError: The embedded world has no such model.
        DataError: There is no such directory, or the hub name cannot be downloaded.
    """
    place = find_place(name_or_path)
    if isinstance(place, Path):
        return place
    try:
        return Path(
            snapshot_download(
                place,
                allow_patterns=[WEIGHTS, INDEX, "model-*.safetensors", "adapter_*", *MODEL_FILES],
                ignore_patterns=["*/*", "*.bin", "*.pt", "*.pth"],
            )
        )
    except Exception as error:  # the hub's client raises errors of its own, of its HTTP library and of the system
        raise DataError(f"{place}: cannot download the model: {error}\n{hub_remedy(place)}") from error


def absolute_name(name_or_path: str | Path) -> str:
    """Name a model so that processes in other working directories find it too: an absolute path, or a hub name.

    Raises:
        ConfigurationError: The embedded world has no such model.
        DataError: There is no such directory.
    """
    place = find_place(name_or_path)
    return str(place.resolve()) if isinstance(place, Path) else place


def hub_remedy(name: str) -> str:
    """Say what to do about a hub name that cannot be downloaded."""
    return (
        "There is no such directory here, so it was looked up on the hub. Check the name and, for gated models,"
        f" `hf auth login`; without a network, `hf download {name} --local-dir DIR` elsewhere and pass DIR."
    )


def _neighbours(path: Path) -> str:
    """Say what is beside a missing path: the entries with the closest names if there are any, else the first ones."""
    parent = next(parent for parent in path.absolute().parents if parent.is_dir())
    names = sorted(entry.name for entry in parent.iterdir())
    child = path.absolute().relative_to(parent).parts[0]
    close = difflib.get_close_matches(child, names, n=3) or names[:5]
    return f"; {parent} has {', '.join(close)}" if close else f"; {parent} is empty"
