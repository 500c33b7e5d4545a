"""Small files, written under a temporary name and then renamed, so that an interruption never leaves half of one."""

import contextlib
import gzip
import hashlib
import json
import math
import re
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from effopd.errors import ConfigurationError, DataError


def expanded(path: str | Path) -> Path:
    """Return a path whose `~` or `~name` is replaced by the home directory.

    Raises:
        DataError: There is no user of that name.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise DataError(f"{path}: there is no such user; give a path without ~.") from error


@contextlib.contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Replace a file by one that the block writes, once it is complete. The file's directory is made if need be.

    Args:
        path: File to write, whether it is there or not.

    Yields:
        The temporary name to write to.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    try:
        yield temporary
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Write a text file, so that it is never there in part. Its directory is made if need be."""
    with replaced(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_text(path: Path) -> str:
    """Read a text file in UTF-8, which is decompressed if its name ends in `.gz`.

    Raises:
        DataError: It is compressed, and damaged.
        OSError: It cannot be read.
        UnicodeDecodeError: It is not UTF-8.
    """
    if path.suffix != ".gz":
        return path.read_text(encoding="utf-8")
    try:
        return gzip.decompress(path.read_bytes()).decode("utf-8")
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path} cannot be decompressed: {error}. Remove it, and start what wrote it again.") from error


def write_json(path: Path, value: Any) -> None:
    """Write an indented JSON file, as `write_text` does.

    Raises:
        ValueError: The value holds NaN or infinity, which JSON does not have.
    """
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        DataError: The file cannot be read, or it holds something else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as JSON: {error}. Copy or download it again.") from error
    if not isinstance(value, dict):
        raise DataError(f"{path} holds a {type(value).__name__}; expected a JSON object. Copy or download it again.")
    return value


def write_json_lines(path: Path, rows: Iterable[Any]) -> None:
    """Write a whole JSON Lines file, as `write_text` does."""
    write_text(path, "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))


def append_json_line(path: Path, row: Any) -> None:
    """Append one line to a JSON Lines file. The file and its directory are made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row, allow_nan=False) + "\n")


def read_json_lines(path: Path, *, may_be_cut: bool = True) -> list[Any]:
    """Read a JSON Lines file.

    Args:
        path: The file, which may be compressed (`.gz`). Its empty lines do not count.
        may_be_cut: Whether an interruption may have cut the last line short. If it has, that line is left out.

    Raises:
        DataError: The file is no text, or a line is not JSON.
    """
    try:
        text = read_text(path)
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


def drop_later_steps(path: Path, step: int) -> None:
    """Remove from a JSON Lines file the rows whose `step` is after the given one. The file need not be there."""
    if path.exists():
        write_json_lines(path, [row for row in read_json_lines(path) if row["step"] <= step])


def kind_of_file(path: Path) -> str:
    """Say for a message what kind of file was given, or that there is none."""
    if not path.exists():
        return "there is no such file"
    return f"got a {path.suffix} file" if path.suffix else "got a file whose name has no ending"


def finite_or_none(value: float | None) -> float | None:
    """Return a number as JSON can hold it: None stands for NaN and infinity."""
    return value if value is not None and math.isfinite(value) else None


def files_digest(files: Iterable[Path]) -> str:
    """Compute a digest of names, sizes and times of change, which tells whether files are still the same ones.

    Returns:
        16 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for file in sorted(files):
        status = file.stat()
        digest.update(f"{file.name} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


class _UniqueKeys(yaml.SafeLoader):
    """Refuses a mapping that has a key twice. PyYAML would silently keep the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if (key.tag, key.value) in seen:
                problem = f"the key {key.value!r} is there twice; expected it once"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add((key.tag, key.value))
        return super().construct_mapping(node, deep)


_UniqueKeys.add_implicit_resolver(  # PyYAML takes 1e-3 for text, because it has no decimal point
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(?:\.\d*)?[eE][-+]?\d+\Z"), list("-+0123456789")
)


def load_yaml(text: str) -> Any:
    """Read what a YAML text holds.

    Raises:
        yaml.YAMLError: The text is not YAML, or a mapping has a key twice. The message names the line.
    """
    return yaml.load(text, _UniqueKeys)


def read_yaml(path: Path) -> Any:
    """Read what a YAML file of a user holds.

    Raises:
        ConfigurationError: The file cannot be read, or is not YAML.
    """
    try:
        return load_yaml(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} cannot be read as YAML: {error}") from error
