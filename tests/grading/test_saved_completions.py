"""Files of completions: checked whole, graded in order, continued after an interruption."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sandbox.sandboxes import needs_bubblewrap

from effopd import cli
from effopd.errors import ConfigurationError, DataError, UnsupportedError
from effopd.grading import Verdict, saved_completions
from effopd.grading.saved_completions import grade_file

MATH = [
    {"id": 7, "completion": r"\boxed{0.5}", "answer": "1/2"},
    {"id": 8, "completion": [{"role": "assistant", "content": r"\boxed{3}"}], "answer": 4},
    {"id": 9, "completion": "yes", "answer": "Yes", "passed": False, "reason": "old", "seconds": 3},
]


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_math(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = write(tmp_path / "in.jsonl", MATH), tmp_path / "new" / "out.jsonl"
    assert cli.main(["grade", str(path), "--grader", "math", "--out", str(out), "--workers", "1"]) == 0
    assert "3 graded, 2 passed, mean 0.6667, 0 timeouts" in capsys.readouterr().out
    rows = read(out)
    assert [row["passed"] for row in rows] == [True, False, True]
    assert [row["reason"] for row in rows] == ["passed", "wrong answer: got 3, expected 4", "passed"]
    assert [row["id"] for row in rows] == [7, 8, 9]
    assert all(row["seconds"] >= 0 for row in rows)
    assert {entry.name for entry in out.parent.iterdir()} == {"out.jsonl", "out.jsonl.settings"}


@needs_bubblewrap
def test_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tests = {"stdin": [{"input": "1", "output": "2"}]}
    endless = "while True: pass"
    rows = [
        {"completion": "print(int(input()) + 1)", "tests": tests},
        {"completion": "def f(): return 1", "tests": {"unit": "assert f() == 1"}, "memory_limit_mb": 64},
        {"completion": endless, "tests": tests | {"time_limit_s": 0.3}},
        {"completion": endless, "tests": json.dumps(tests), "time_limit_s": 0.3},
    ]
    path, out = write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    assert cli.main(["grade", str(path), "--grader", "code", "--out", str(out), "--time-limit", "20"]) == 0
    assert "4 graded, 2 passed, mean 0.5000, 2 timeouts" in capsys.readouterr().out
    assert [row["passed"] for row in read(out)] == [True, True, False, False]
    assert [{key: row[key] for key in rows[0]} for row in read(out)] == [{k: r[k] for k in rows[0]} for r in rows]


def interrupted(verdicts: list[Verdict]) -> Any:
    def iterate(completions: list[str], answers: list[str], **options: Any) -> Iterator[Verdict]:
        seen.append(len(completions))
        yield from verdicts[: len(completions)]
        if len(verdicts) < len(completions):
            raise KeyboardInterrupt

    seen: list[int] = []
    iterate.seen = seen  # type: ignore[attr-defined]
    return iterate


def test_an_interruption_keeps_what_is_graded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"completion": str(number), "answer": "0"} for number in range(5)]
    path, out = write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    stopped = interrupted([Verdict(True, "passed"), Verdict(False, "time limit", "x")])
    monkeypatch.setattr(saved_completions, "iterate_math_verdicts", stopped)
    assert cli.main(["grade", str(path), "--grader", "math", "--out", str(out)]) == 130
    assert not out.exists()
    [partial] = tmp_path.glob("out.jsonl.*.partial")
    assert len(read(partial)) == 2
    partial.write_text(partial.read_text() + '{"completion": "2", "ans')  # cut short while writing
    rest = interrupted([Verdict(False, "wrong answer", "y")] * 3)
    monkeypatch.setattr(saved_completions, "iterate_math_verdicts", rest)
    summary = grade_file(path, "math", out)
    assert rest.seen == [3]
    assert (summary.num_graded, summary.num_passed, summary.num_timeouts) == (5, 1, 1)
    assert [row["reason"] for row in read(out)] == ["passed", "time limit: x", *["wrong answer: y"] * 3]
    assert not partial.exists()
    assert grade_file(path, "math", out) == summary  # finished: nothing is graded again
    assert rest.seen == [3]


def test_changed_lines_are_graded_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"completion": str(number), "answer": "0"} for number in range(4)]
    path, out = write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    monkeypatch.setattr(saved_completions, "iterate_math_verdicts", interrupted([Verdict(True, "passed")] * 3))
    with pytest.raises(KeyboardInterrupt):
        grade_file(path, "math", out)
    rows[1]["completion"] = "changed"
    write(path, rows)
    rest = interrupted([Verdict(False, "wrong answer")] * 3)
    monkeypatch.setattr(saved_completions, "iterate_math_verdicts", rest)
    grade_file(path, "math", out)
    assert rest.seen == [3]
    assert [(row["completion"], row["passed"]) for row in read(out)] == [
        ("0", True),
        ("changed", False),
        ("2", False),
        ("3", False),
    ]
    write(path, rows[:2])
    with pytest.raises(DataError, match=r"out\.jsonl is there already"):
        grade_file(path, "math", out)
    with pytest.raises(DataError, match="is there already"):
        grade_file(path, "math", path)


def test_two_gradings_do_not_write_the_same_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, out = write(tmp_path / "in.jsonl", MATH), tmp_path / "out.jsonl"

    def iterate(completions: list[str], answers: list[str], **options: Any) -> Iterator[Verdict]:
        yield Verdict(True, "passed")
        with pytest.raises(DataError, match=r"out\.jsonl: another command is writing there"):
            grade_file(path, "math", out)
        if meddles:
            next(tmp_path.glob("*.partial")).write_text("")
        yield from [Verdict(False, "wrong answer")] * 2

    monkeypatch.setattr(saved_completions, "iterate_math_verdicts", iterate)
    meddles = True
    with pytest.raises(DataError, match=r"2 lines, expected 3\. Run this again"):
        grade_file(path, "math", out)
    meddles = False
    write(tmp_path / "out.jsonl.math.partial", [])
    assert grade_file(path, "math", out).num_passed == 1
    assert [row["passed"] for row in read(out)] == [True, False, False]


def test_a_finished_file_of_another_grading_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"completion": "1", "answer": "1", "tests": {"unit": "assert f() == 1"}}]
    path, out = write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    monkeypatch.setattr(saved_completions, "check_sandbox", lambda: None)
    monkeypatch.setattr(saved_completions, "iterate_code_verdicts", interrupted([Verdict(False, "wrong answer")]))
    grade_file(path, "code", out)
    grade_file(path, "code", out, memory_mb=1024)  # the default
    for options in ({"grader": "math"}, {"grader": "code", "time_s": 7.0}, {"grader": "code", "unsafe": True}):
        with pytest.raises(DataError, match=r"settings .* are code-6s-1024mb, now "):
            grade_file(path, out=out, **options)  # type: ignore[arg-type]
    (tmp_path / "out.jsonl.settings").unlink()
    with pytest.raises(DataError, match="are unknown, now code-6s-1024mb"):
        grade_file(path, "code", out)


@pytest.mark.parametrize(
    ("out", "message"),
    [
        (".", "got a directory"),
        ("in.jsonl/out.jsonl", "in.jsonl'. Give another path"),
        ("/proc/out.jsonl", "/proc/out.jsonl.settings'. "),
        ("binary", "expected text in UTF-8"),
    ],
)
def test_outputs_that_cannot_be_written(
    out: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "in.jsonl", MATH)
    (tmp_path / "binary").write_bytes(b"\xff")
    monkeypatch.setattr(saved_completions, "iterate_math_verdicts", None)
    assert cli.main(["grade", str(path), "--grader", "math", "--out", str(tmp_path / out)]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: not JSON"),
        ('{"completion": "1", "answer": NaN}', "line 2: not JSON: NaN"),
        ("[1]", "got a list"),
        ('{"completion": "1"}', "no answer; the keys are 'completion'"),
        ('{"text": "1"}', "no completion and no answer; the keys are 'text'"),
        ('{"completion": 1, "answer": "1"}', "expected a text, or messages"),
        ('{"completion": [], "answer": "1"}', "expected a text, or messages"),
        ('{"completion": "1", "answer": ["1"]}', "got a list, expected a text or a number"),
        *(
            (f'{{"completion": "", "answer": "{empty}"}}', "it is empty")
            for empty in (" ", ".", "$$", r"\\boxed{}", "$.")
        ),
        ('{"completion": "1", "answer": 1e999}', "1e999, expected a finite number"),
        ('{"completion": "1", "answer": "1", "more": [{"x": -1e999}]}', "-1e999, expected a finite number"),
        ('{"completion": "1", "answer": ' + "1" * 5000 + "}", "line 2: not JSON"),
        ("[" * 100_000, "line 2: not JSON"),
    ],
)
def test_bad_lines_stop_before_anything_is_graded(
    line: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text('{"completion": "1", "answer": "1"}\n' + line + "\n")
    assert cli.main(["grade", str(path), "--grader", "math", "--out", str(tmp_path / "out.jsonl")]) == 1
    err = capsys.readouterr().err
    assert f"{path}, line 2: " in err
    assert message in err
    assert [entry.name for entry in tmp_path.iterdir()] == ["in.jsonl"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"completion": "1", "answer": "1"}, "no tests"),
        ({"completion": "1", "tests": {"unit": "f(1)"}}, "asserts nothing"),
        ({"completion": "1", "tests": {"unit": "assert f()", "time_limit_s": 1}, "time_limit_s": 2}, "keep one"),
        ({"completion": "1", "tests": {"unit": "assert f()"}, "time_limit_s": -2}, "above 0"),
        ({"completion": "1", "tests": "{", "time_limit_s": 2}, "not JSON"),
    ],
)
def test_bad_tests_name_their_line(row: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "in.jsonl", [row])
    with pytest.raises(DataError, match=rf"in\.jsonl, line 1: .*{message}"):
        grade_file(path, "code", tmp_path / "out.jsonl")


def test_files_and_options_that_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out.jsonl"
    with pytest.raises(DataError, match="no such file"):
        grade_file(tmp_path / "none.jsonl", "math", out)
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n")
    with pytest.raises(DataError, match="at least one completion"):
        grade_file(empty, "math", out)
    empty.write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="UTF-8"):
        grade_file(empty, "math", out)
    path = write(tmp_path / "in.jsonl", MATH)
    for options in ({"unsafe": True}, {"time_s": 3.0}, {"memory_mb": 100}):
        with pytest.raises(ConfigurationError, match="code"):
            grade_file(path, "math", out, **options)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="expected one of"):
        grade_file(path, "art", out)  # type: ignore[arg-type]
    code = write(tmp_path / "code.jsonl", [{"completion": "def f(): return 1", "tests": {"unit": "assert f() == 1"}}])
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(UnsupportedError, match="bubblewrap"):
        grade_file(code, "code", out)
    with pytest.warns(UserWarning, match="without a sandbox"):
        assert grade_file(code, "code", out, unsafe=True).mean == 1.0
