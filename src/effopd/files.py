"""Small files written so that an interruption never leaves half of one: temporary name, then rename."""

import contextlib
import hashlib
import json
import math
import os
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeGuard

import yaml

from effopd.errors import DataError


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, making its directory."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def write_json(path: Path, value: Any) -> None:
    """Write JSON, indented. NaN and infinity are refused: they are not JSON."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        DataError: The file cannot be read, or holds something else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as JSON: {error}. Copy or download it again.") from error
    if not isinstance(value, dict):
        raise DataError(f"{path} holds a {type(value).__name__}; expected a JSON object. Copy or download it again.")
    return value


def write_json_lines(path: Path, rows: Iterable[Any]) -> None:
    """Write a whole JSON Lines file."""
    write_text(path, "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))


def drop_later_steps(path: Path, step: int) -> None:
    """Rewrite a JSON Lines file, if it is there, without the rows whose `step` comes after the given one."""
    if path.exists():
        write_json_lines(path, [row for row in read_json_lines(path) if row["step"] <= step])


def append_json_line(path: Path, row: Any) -> None:
    """Append one line in one write."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row, allow_nan=False) + "\n")


def read_json_lines(path: Path, *, may_be_cut: bool = True) -> list[Any]:
    """Read a JSON Lines file.

    Args:
        path: The file. Empty lines in it do not count.
        may_be_cut: Whether an interruption may have cut its last line short, which is left out then.

    Raises:
        DataError: It is no text, or a line is not JSON.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: got {error}, expected text in UTF-8. Write the file anew.") from error
    lines = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    rows = []
    for number, line in lines:
        try:
            rows.append(json.loads(line))
        except (ValueError, RecursionError) as error:
            if not may_be_cut or number < lines[-1][0]:
                raise DataError(f"{path}, line {number} is not JSON ({error}). Mend or remove the line.") from error
    return rows


def finite_or_none(value: float | None) -> float | None:
    """A number for JSON, which has neither NaN nor infinity: None stands for them."""
    return value if value is not None and math.isfinite(value) else None


def is_finite_number(value: object) -> TypeGuard[float]:
    """Whether a value of a JSON or YAML file is a number that a float can hold, and not true or false."""
    most = sys.float_info.max  # whole numbers may be larger, on which math.isfinite() raises
    return isinstance(value, int | float) and not isinstance(value, bool) and -most <= value <= most


NOT_IN_NAMES = '/\\:*?"<>|'


def can_name_a_file(name: str, longest: int) -> bool:
    """Whether a text, of at most so many bytes, names a visible file or directory wherever it is copied to."""
    strange = not name.isprintable() or set(name) & set(NOT_IN_NAMES)
    return bool(name) and not name.startswith(".") and not strange and len(name.encode()) <= longest


def files_digest(files: Iterable[Path]) -> str:
    """Names, sizes and times of files, hashed: others in their place are noticed. 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for file in sorted(files):
        status = file.stat()
        digest.update(f"{file.name} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Have a directory, made if it is not there, to oneself among those that ask for it so.

    Raises:
        DataError: Another process has it, or another thread.
        OSError: It is a file, or cannot be made.
    """
    import fcntl  # not on Windows, where nothing else of this file should fail

    directory.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(
                f"{directory}: another command is writing there. Wait for that one, or choose another directory."
            ) from None
        except OSError:
            pass  # file systems of a network may have no locks for directories
        yield
    finally:
        os.close(descriptor)


class _UniqueKeys(yaml.SafeLoader):
    """Refuses a mapping that has a key twice, of which PyYAML would silently keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if (key.tag, key.value) in seen:
                problem = f"the key {key.value!r} is there twice; expected it once"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add((key.tag, key.value))
        return super().construct_mapping(node, deep)


_UniqueKeys.add_implicit_resolver(  # PyYAML takes 1e-3 for text, as it has no decimal point
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(?:\.\d*)?[eE][-+]?\d+\Z"), list("-+0123456789")
)


def load_yaml(text: str) -> Any:
    """What a YAML text holds.

    Raises:
        yaml.YAMLError: It is not YAML, or a mapping has a key twice; with the line.
    """
    return yaml.load(text, _UniqueKeys)
