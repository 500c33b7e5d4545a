"""Grading a file of saved completions, line by line, so that an interrupted grading can be continued."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from effopd.checks import check_choice
from effopd.console import progress_bar
from effopd.errors import ConfigurationError, DataError
from effopd.files import read_json_lines
from effopd.grading.completion_lines import Grader, Row, read_completions
from effopd.grading.mathematics import iterate_math_verdicts
from effopd.grading.programs import iterate_code_verdicts
from effopd.grading.verdict import TIME_LIMIT, Verdict
from effopd.run_directory import FinishedPieces, locked
from effopd.sandbox import Limits, check_sandbox

_ADDED = ("passed", "reason", "seconds")


@dataclass(frozen=True)
class GradingSummary:
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
) -> GradingSummary:
    """Grade every line of a JSON Lines file.

    A line has `completion`, which is a text or messages. For mathematics it also has `answer`; for code it has `tests`,
    in a form that `parse_tests` reads, and `time_limit_s` and `memory_limit_mb` may be in `tests` or beside it. All
    lines are checked before the first one is graded.

    Verdicts are written as they come to a file beside `out`, which gets the name `out` in the end. If an interrupted
    grading with the same settings has left such a file, its lines are kept as far as they are those of `path`. The
    settings are in `OUT.settings`, which stays. Only one grading at a time can have that file locked and write.

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
    check_choice("grader", grader, get_args(Grader))
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
    with _claimed(out, settings):
        pieces = FinishedPieces(out.with_name(f"{out.name}.{settings}.partial"))
        pieces.keep(_matching_start(pieces.rows, rows))
        num_done = len(pieces.rows)
        completions = [row["completion"] for row in rows[num_done:]]
        if grader == "math":
            answers = [row["answer"] for row in rows[num_done:]]
            verdicts = iterate_math_verdicts(completions, answers, workers=workers)
        else:
            left = tests[num_done:]
            verdicts = iterate_code_verdicts(completions, left, workers=workers, limits=limits, unsafe=unsafe)
        with progress_bar("lines") as progress:
            task = progress.add_task(f"grading {path.name}", total=len(rows), completed=num_done)
            for row, verdict in zip(rows[num_done:], verdicts, strict=True):
                pieces.add(_with_verdict(row, verdict))
                progress.advance(task)
        _finish(pieces, out)
    return _summarize(pieces.rows)


@contextmanager
def _claimed(out: Path, settings: str) -> Iterator[None]:
    """Write the settings beside an output that is not there yet, and keep other gradings from writing it."""
    path = _settings_path(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    with locked(path, name=out):
        if out.exists():
            raise DataError(f"{out}: another grading has just finished it. Run this again.")
        path.write_text(f"{settings}\n", encoding="utf-8")  # in place: the lock is on this very file
        yield


def _finish(pieces: FinishedPieces, out: Path) -> None:
    """Give the file with all lines its final name."""
    if (num_lines := pieces.path.read_bytes().count(b"\n")) != len(pieces.rows):
        raise DataError(
            f"{pieces.path}: something else has written there: {num_lines} lines, expected {len(pieces.rows)}. Run this"
            " again."
        )
    pieces.path.replace(out)


def _settings_path(out: Path) -> Path:
    return out.with_name(f"{out.name}.settings")


def _read_finished(out: Path, path: Path, rows: Sequence[Row], settings: str) -> list[Row]:
    """Read an output that exists already, if its lines are what would be written now."""
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


def _matching_start(graded: Sequence[Row], rows: Sequence[Row]) -> list[Row]:
    """Take the lines that an interrupted grading has left, as far as they are the first lines of the input."""
    kept: list[Row] = []
    for before, row in zip(graded, rows, strict=False):
        if not _has_verdict(before) or _without_verdict(before) != _without_verdict(row):
            break
        kept.append(before)
    return kept


def _with_verdict(row: Row, verdict: Verdict) -> Row:
    return row | {"passed": verdict.passed, "reason": verdict.reason, "seconds": round(verdict.seconds, 4)}


def _has_verdict(row: Any) -> bool:
    return isinstance(row, dict) and all(key in row for key in _ADDED)


def _without_verdict(row: Any) -> Any:
    return {key: value for key, value in row.items() if key not in _ADDED} if isinstance(row, dict) else row


def _summarize(graded: Sequence[Row]) -> GradingSummary:
    timeouts = sum(not row["passed"] and row["reason"].partition(":")[0] == TIME_LIMIT for row in graded)
    return GradingSummary(len(graded), sum(row["passed"] for row in graded), timeouts)
