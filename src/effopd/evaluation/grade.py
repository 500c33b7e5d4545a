"""Grading a file of saved completions, line by line, and continuing where an interruption stopped it."""

import fcntl
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from effopd.errors import ConfigurationError, DataError
from effopd.evaluation.grade_code import iterate_code_verdicts
from effopd.evaluation.grade_math import iterate_math_verdicts
from effopd.evaluation.limits import Limits
from effopd.evaluation.math_text import check_answer
from effopd.evaluation.start import check_sandbox
from effopd.evaluation.test_cases import Tests, parse_tests
from effopd.evaluation.verdict import TIME_LIMIT, Verdict
from effopd.files import append_json_line, read_json_lines, write_json_lines

Grader = Literal["math", "code"]
Row = dict[str, Any]

_ADDED = ("passed", "reason", "seconds")
_LIMIT_KEYS = ("time_limit_s", "memory_limit_mb")


@dataclass(frozen=True)
class Summary:
    """What came out of grading a file.

    Attributes:
        num_graded: Lines.
        num_passed: How many of them are right.
        num_timeouts: How many ran into a limit on time.
    """

    num_graded: int
    num_passed: int
    num_timeouts: int

    @property
    def mean(self) -> float:
        """Share of lines that are right."""
        return self.num_passed / self.num_graded

    def __str__(self) -> str:
        return f"{self.num_graded} graded, {self.num_passed} passed, mean {self.mean:.4f}, {self.num_timeouts} timeouts"


def grade_file(
    path: Path,
    grader: Grader,
    out: Path,
    *,
    workers: int | None = None,
    time_s: float | None = None,
    memory_mb: int | None = None,
    unsafe: bool = False,
) -> Summary:
    """Grade every line of a JSON Lines file.

    A line has `completion`, a text or messages, and for mathematics `answer`, for code `tests` as `parse_tests` reads
    them; `time_limit_s` and `memory_limit_mb` may stand in `tests` or beside it. All lines are checked before the first
    one is graded. Verdicts go to a file beside `out` as they come, which takes the name `out` in the end. The lines
    there, from an interruption with the same settings, are not graded again as long as they are those of `path`. The
    settings stand in `OUT.settings`, which stays; no second grading can write while one holds it.

    Args:
        path: The completions.
        grader: `math` or `code`.
        out: The same lines in the same order, with `passed`, `reason` and `seconds` added (in place of those that
            they have). If it is there already, and holds the lines of `path` graded with these settings, nothing is
            done.
        workers: How many lines to grade at a time; by default one per processor.
        time_s: Code: processor seconds for a run where the tests do not say.
        memory_mb: Code: MiB of memory for a run where the tests do not say.
        unsafe: Code: without a sandbox. Warns.

    Raises:
        ConfigurationError: An argument cannot be right.
        DataError: A line is not as described, or `out` holds something else, or is being written by another grading.
        OSError: `out` cannot be written.
        UnsupportedError: There is no working sandbox.
    """
    if grader not in get_args(Grader):
        raise ConfigurationError(f"grader: got {grader!r}, expected one of {list(get_args(Grader))}.")
    if grader == "math" and (time_s is not None or memory_mb is not None or unsafe):
        raise ConfigurationError("Limits and --unsafe are for --grader code; leave them out for math.")
    given = {name: value for name, value in (("time_s", time_s), ("memory_mb", memory_mb)) if value is not None}
    limits = replace(Limits(), **given)  # type: ignore[arg-type]
    rows, tests = _read_rows(path, grader)
    settings = "math" if grader == "math" else f"code-{limits.time_s:g}s-{limits.memory_mb}mb{'-unsafe' * unsafe}"
    if out.exists():
        return _summarize(_read_finished(out, path, rows, settings))
    if grader == "code" and not unsafe:
        check_sandbox()
    with _claim(out, settings):
        partial = out.with_name(f"{out.name}.{settings}.partial")
        graded = _matching_start(partial, rows)
        left = range(len(graded), len(rows))
        completions = [rows[index]["completion"] for index in left]
        if grader == "math":
            answers = [rows[index]["answer"] for index in left]
            verdicts = iterate_math_verdicts(completions, answers, workers=workers)
        else:
            remaining = [tests[index] for index in left]
            verdicts = iterate_code_verdicts(completions, remaining, workers=workers, limits=limits, unsafe=unsafe)
        with _progress() as progress:
            task = progress.add_task(f"grading {path.name}", total=len(rows), completed=len(graded))
            for index, verdict in zip(left, verdicts, strict=True):
                graded.append(_with_verdict(rows[index], verdict))
                append_json_line(partial, graded[-1])
                progress.advance(task)
        if (num_lines := partial.read_bytes().count(b"\n")) != len(rows):
            raise DataError(
                f"{partial}: something else has written there: {num_lines} lines, expected {len(rows)}. Run this again."
            )
        partial.replace(out)
    return _summarize(graded)


@contextmanager
def _claim(out: Path, settings: str) -> Iterator[None]:
    """Write the settings beside an output that is not there yet, and keep other gradings from writing it meanwhile."""
    path = _settings_path(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(f"{out}: another grading is writing it. Wait for that one, or choose another.") from None
        if out.exists():
            raise DataError(f"{out}: another grading has just finished it. Run this again.")
        file.truncate(0)
        file.write(f"{settings}\n")
        file.flush()
        yield


def _settings_path(out: Path) -> Path:
    return out.with_name(f"{out.name}.settings")


def _read_finished(out: Path, path: Path, rows: Sequence[Row], settings: str) -> list[Row]:
    """The lines of an output that is there already, if they are what would be written now."""
    if out.is_dir():
        raise DataError(f"{out}: got a directory, expected the name of a file to write.")
    graded = read_json_lines(out, may_be_cut=False)
    same = [_without_verdict(row) for row in graded] == [_without_verdict(row) for row in rows]
    if not same or not all(_has_verdict(row) for row in graded):
        raise DataError(f"{out} is there already, and not {path} graded. Move it away, or choose another.")
    beside = _settings_path(out)
    before = beside.read_text(encoding="utf-8").strip() if beside.exists() else "unknown"
    if before != settings:
        raise DataError(
            f"{out} is there already, and its settings ({beside.name}) are {before}, now {settings}. Move it away, or"
            " choose another."
        )
    return graded


def _read_rows(path: Path, grader: Grader) -> tuple[list[Row], list[Tests]]:
    """All lines, and for code their tests, checked."""
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
        raise DataError(f"no {' and no '.join(missing)}; there are {', '.join(row) or 'no keys'}.")
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
    """The tests of a line, with the limits that stand beside them."""
    beside = {key: row[key] for key in _LIMIT_KEYS if row.get(key) is not None}
    tests = row["tests"]
    if isinstance(tests, str) and beside:
        try:
            tests = json.loads(tests)
        except ValueError:
            return tests  # whose error is reported by whoever reads it
    if not beside or not isinstance(tests, dict):
        return tests
    if both := [key for key in beside if tests.get(key) is not None]:
        raise DataError(f"{', '.join(both)}: both in tests and beside it; keep one.")
    return tests | beside


def _matching_start(partial: Path, rows: Sequence[Row]) -> list[Row]:
    """The graded lines of an interrupted grading, as far as they are the first ones of the input."""
    if not partial.exists():
        return []
    graded: list[Row] = []
    for before, row in zip(read_json_lines(partial), rows, strict=False):
        if not _has_verdict(before) or _without_verdict(before) != _without_verdict(row):
            break
        graded.append(before)
    write_json_lines(partial, graded)
    return graded


def _with_verdict(row: Row, verdict: Verdict) -> Row:
    return row | {"passed": verdict.passed, "reason": verdict.reason, "seconds": round(verdict.seconds, 4)}


def _has_verdict(row: Any) -> bool:
    return isinstance(row, dict) and all(key in row for key in _ADDED)


def _without_verdict(row: Any) -> Any:
    return {key: value for key, value in row.items() if key not in _ADDED} if isinstance(row, dict) else row


def _summarize(graded: Sequence[Row]) -> Summary:
    timeouts = sum(not row["passed"] and row["reason"].partition(":")[0] == TIME_LIMIT for row in graded)
    return Summary(len(graded), sum(row["passed"] for row in graded), timeouts)


def _progress() -> Progress:
    console = Console(stderr=True)
    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()]
    times = [TimeElapsedColumn(), TimeRemainingColumn()]
    return Progress(*columns, *times, console=console, disable=not console.is_terminal)
