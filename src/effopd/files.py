"""Small files written so that an interruption never leaves half of one: temporary name, then rename."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

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


def read_json_lines(path: Path) -> list[Any]:
    """Read a JSON Lines file; a last line cut short by an interruption is left out.

    Raises:
        DataError: Another line is not JSON.
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number < len(lines):
                raise DataError(f"{path}, line {number} is not JSON ({error}). Mend or remove the line.") from error
    return rows
