"""Grading a file of saved completions, line by line, so that an interrupted grading can be continued."""

import fcntl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from effopd.errors import ConfigurationError, DataError
from effopd.files import append_json_line, read_json_lines, write_json_lines
from effopd.grading.completion_lines import Grader, Row, read_completions
from effopd.grading.mathematics import iterate_math_verdicts
from effopd.grading.programs import iterate_code_verdicts
from effopd.grading.verdict import TIME_LIMIT, Verdict
from effopd.sandbox import Limits, check_sandbox

_ADDED = ("passed", "reason", "seconds")


@dataclass(frozen=True)
class Summary:
    """What came out of grading a file.

    Attributes:
        num_graded: Number of lines.
        num_passed: Number of lines whose completion is right.
        num_timeouts: Number of lines on which a limit on time decided.
    """

    num_graded: int
    num_passed: int
    num_timeouts: int

    @property
    def mean(self) -> float:
        """Share of lines whose completion is right."""
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

    A line has `completion`, which is a text or messages. For mathematics it also has `answer`; for code it has `tests`,
    in a form that `parse_tests` reads, and `time_limit_s` and `memory_limit_mb` may be in `tests` or beside it. All
    lines are checked before the first one is graded.

    Verdicts are written as they come to a file beside `out`, which gets the name `out` in the end. If an interrupted
    grading with the same settings has left such a file, its lines are kept as far as they are those of `path`. The
    settings are in `OUT.settings`, which stays; while one grading has it locked, no second one can write.

    Args:
        path: File with the completions.
        grader: Either `math` or `code`.
        out: File for the same lines in the same order, with `passed`, `reason` and `seconds` added to each, in place of
            any that it has. If this file is there already and holds the lines of `path`, graded with these settings,
            nothing is done.
        workers: Number of lines to grade at a time; by default one for each processor.
        time_s: Processor seconds for a run of a program, where its tests do not say; for code only.
        memory_mb: MiB of memory for a run of a program, where its tests do not say; for code only.
        unsafe: Whether to run programs without a sandbox, for code only. This warns.

    Raises:
        ConfigurationError: An argument is wrong, or does not go with the grader.
        DataError: A line is not as described; or `out` holds something else, or another grading is writing it.
        OSError: `out` cannot be written.
        UnsupportedError: There is no working sandbox.
    """
    if grader not in get_args(Grader):
        raise ConfigurationError(f"grader: got {grader!r}, expected one of {list(get_args(Grader))}.")
    if grader == "math" and (time_s is not None or memory_mb is not None or unsafe):
        raise ConfigurationError("Limits and --unsafe are for --grader code; leave them out for math.")
    given = {name: value for name, value in (("time_s", time_s), ("memory_mb", memory_mb)) if value is not None}
    limits = replace(Limits(), **given)  # type: ignore[arg-type]
    rows, tests = read_completions(path, grader)
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
    """Write the settings beside an output that does not exist yet, and keep other gradings from writing it."""
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
    """The lines of an output that exists already, if they are what would be written now."""
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


def _matching_start(partial: Path, rows: Sequence[Row]) -> list[Row]:
    """The lines that an interrupted grading has left, as far as they are the first lines of the input."""
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
