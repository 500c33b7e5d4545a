"""Reading a file of saved completions, of which every line is checked before the first one is graded."""

import json
import math
from pathlib import Path
from typing import Any, Literal

from effopd.errors import DataError
from effopd.grading.compare_text import check_answer
from effopd.grading.problem_tests import Tests, parse_tests

Grader = Literal["math", "code"]
Row = dict[str, Any]

_LIMIT_KEYS = ("time_limit_s", "memory_limit_mb")


def read_completions(path: Path, grader: Grader) -> tuple[list[Row], list[Tests]]:
    """Read and check all lines.

    Args:
        path: A JSON Lines file.
        grader: Whether the lines have answers (`math`) or tests (`code`).

    Returns:
        The lines, and for code the tests of each.

    Raises:
        DataError: A line cannot be read or graded. The message names the file and the line.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; expected JSON Lines with completions.") from None
    except (UnicodeDecodeError, IsADirectoryError) as error:
        raise DataError(f"{path}: not a text file ({error}); expected JSON Lines in UTF-8.") from error
    rows: list[Row] = []
    tests: list[Tests] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = _read_row(line, grader)
            if grader == "code":
                tests.append(parse_tests(_with_limits(row)))
        except DataError as error:
            raise DataError(f"{path}, line {number}: {error}") from error
        rows.append(row)
    if not rows:
        raise DataError(f"{path}: no lines; expected at least one completion.")
    return rows, tests


def _read_row(line: str, grader: Grader) -> Row:
    try:
        row = json.loads(line, parse_constant=_finite, parse_float=_finite)
    except DataError:
        raise
    except (ValueError, RecursionError) as error:
        raise DataError(f"not JSON ({error}). Mend or remove the line.") from error
    wanted = "answer" if grader == "math" else "tests"
    if not isinstance(row, dict):
        raise DataError(f"got a {type(row).__name__}, expected an object with completion and {wanted}.")
    if missing := [key for key in ("completion", wanted) if row.get(key) is None]:
        raise DataError(f"no {' and no '.join(missing)}; the keys are {', '.join(map(repr, row)) or 'none'}.")
    completion = row["completion"]
    if not isinstance(completion, str) and not _are_messages(completion):
        raise DataError('completion: expected a text, or messages such as [{"role": "assistant", "content": "..."}].')
    if grader == "math":
        check_answer(row["answer"])
    return row


def _finite(number: str) -> float:
    value = float(number)
    if not math.isfinite(value):
        raise DataError(f"not JSON: {number}, expected a finite number. Mend or remove the line.")
    return value


def _are_messages(value: Any) -> bool:
    if not isinstance(value, list) or not value or not all(isinstance(message, dict) for message in value):
        return False
    return isinstance(value[-1].get("content"), str | None)


def _with_limits(row: Row) -> Any:
    """Return the tests of a line together with the limits that the line has beside them."""
    beside = {key: row[key] for key in _LIMIT_KEYS if row.get(key) is not None}
    tests = row["tests"]
    if isinstance(tests, str) and beside:
        try:
            tests = json.loads(tests)
        except ValueError:
            return tests  # `parse_tests` says what is wrong with it
    if not beside or not isinstance(tests, dict):
        return tests
    if both := [key for key in beside if tests.get(key) is not None]:
        raise DataError(f"{', '.join(both)}: both in tests and beside it; keep one.")
    return tests | beside
