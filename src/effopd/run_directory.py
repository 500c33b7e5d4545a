"""The protocol that output directories have in common, so that an interrupted command can be continued.

1. A file of the directory has the settings that decide its results. A command with other settings is refused.
2. Only one command at a time writes to a directory.
3. A finished piece of the work is a line of a JSON Lines file, or a file or directory that was written under a
   temporary name and then renamed. The same command, started again, does only what is left.
"""

import contextlib
import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from effopd.errors import CheckpointError, DataError
from effopd.files import append_json_line, read_json, read_json_lines, write_json, write_json_lines

Settings = Mapping[str, Any]


def differing_settings(before: Settings, now: Settings) -> list[str]:
    """Describe the settings that two commands do not share, each as `name BEFORE (now NOW)`."""
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    return [f"{name} {before.get(name)!r} (now {now.get(name)!r})" for name in names]


@contextlib.contextmanager
def claimed(
    directory: Path,
    settings_file: str,
    settings: Settings,
    *,
    holds: str,
    differing: Callable[[Any, Any], list[str]] = differing_settings,
) -> Iterator[None]:
    """Have an output directory to oneself until the block ends, after checking that it was made with these settings.

    The settings are written to the directory. Settings of an earlier command count only if it left results, too.

    Args:
        directory: Directory that is new, empty, or was made with these settings.
        settings_file: Name of the JSON file with the settings.
        settings: Everything that decides the results, as JSON can hold it.
        holds: What the directory holds, for messages: `an analysis`.
        differing: Function that describes in which settings the directory, whose settings come first, differs from
            what is wanted; empty if the work can be continued.

    Raises:
        CheckpointError: The path is a file, or the directory holds something else.
        DataError: The settings cannot be read, or another command is writing to the directory.
        OSError: The directory cannot be made, or not be written to.
    """
    if directory.exists() and not directory.is_dir():
        raise CheckpointError(f"{directory} is a file. Choose another --out.")
    directory.mkdir(parents=True, exist_ok=True)
    with locked(directory):
        path, wanted = directory / settings_file, json.loads(json.dumps(settings))
        has_results = {each.name for each in directory.iterdir()} - {settings_file, f"{settings_file}.tmp"}
        if has_results and not path.exists():
            raise CheckpointError(
                f"{directory} is not empty and holds no {holds.partition(' ')[2]}. Choose another --out, or an empty"
                " one."
            )
        if has_results and (differences := differing(read_json(path), wanted)):
            raise CheckpointError(
                f"{directory} holds {holds} with other settings: {'; '.join(differences)}. Choose another --out, or"
                " remove that one."
            )
        write_json(path, wanted)
        yield


@contextlib.contextmanager
def locked(path: Path, *, name: Path | None = None) -> Iterator[None]:
    """Keep other commands, and other threads, from locking the same path until the block ends.

    Where the file system has no locks, this warns and goes on.

    Args:
        path: Directory or file that is there.
        name: Path that messages name in its place.

    Raises:
        DataError: Another command has locked it.
    """
    with contextlib.ExitStack() as stack:
        try:
            import fcntl  # Windows does not have it, and cannot open a directory either

            descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
            stack.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(
                f"{name or path}: another command is writing there. Wait for that one, or choose another output."
            ) from None
        except (OSError, ImportError) as error:
            warnings.warn(
                f"{name or path} cannot be locked here ({error}). Take care that no other command writes there at the"
                " same time.",
                stacklevel=3,
            )
        yield


class FinishedPieces:
    """The finished pieces of a work, each a line of a JSON Lines file that is appended when the piece is finished.

    If an interruption has cut the last line short, that line is taken out of the file.

    Args:
        path: The file, which need not be there yet.

    Attributes:
        rows: Lines of the file, in order.

    Raises:
        DataError: A line before the last one is not JSON, or the file is no text.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[Any] = read_json_lines(path) if path.exists() else []
        if path.exists() and not path.read_bytes().endswith(b"\n"):
            write_json_lines(path, self.rows)  # otherwise the next line would be appended to the fragment

    def keep(self, rows: list[Any]) -> None:
        """Rewrite the file so that it has only some of its rows, if it has others."""
        if rows != self.rows:
            write_json_lines(self.path, rows)
        self.rows = rows

    def add(self, row: Any) -> None:
        """Append a row."""
        append_json_line(self.path, row)
        self.rows.append(row)


@contextlib.contextmanager
def written_whole(directory: Path) -> Iterator[Path]:
    """Make a directory that is there only once it is complete: the block fills one of another name, then it is renamed.

    If the block fails or is interrupted, what it wrote is removed; what a killed process left is removed by the next.

    Args:
        directory: Directory that is not there yet, or empty.

    Yields:
        The empty directory to fill, beside it: `.NAME.partial`.

    Raises:
        DataError: Another command is filling it.
        OSError: It cannot be made, or not be renamed.
    """
    partial = directory.with_name(f".{directory.name}.partial")
    partial.mkdir(parents=True, exist_ok=True)
    with locked(partial, name=directory):
        try:
            make_empty(partial)
            yield partial
            partial.replace(directory)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise


def make_empty(directory: Path) -> None:
    """Remove what is in a directory."""
    for path in directory.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
