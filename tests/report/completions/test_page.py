"""The page of completions side by side: what it shows, that it is escaped, and what it refuses."""

import gzip
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from effopd.cli import main
from effopd.errors import ConfigurationError, DataError
from effopd.report.completions import read_columns, write_page

HOSTILE = '</pre><script>alert(1)</script><img src=x onerror=alert(1)> & "quoted" {{style}} \x00\x1b[31m \u202eleft'
PROBLEMS: list[dict[str, Any]] = [{"prompt": f"What is {n} + 1?", "answer": str(n + 1)} for n in range(5)]


def record(prompt: int, completion: str, passed: bool, sample: int = 0, **changes: Any) -> dict[str, Any]:
    reason = "passed" if passed else "wrong answer"
    row = {"prompt": prompt, "sample": sample, "completion": completion, "passed": passed, "reason": reason}
    return row | {"num_tokens": len(completion), "truncated": False, "kl": None} | changes


def evaluation(directory: Path, right: set[int], *, problems: Any = PROBLEMS, **changes: Any) -> Path:
    """A directory of `effopd evaluate`, in which some problems were solved."""
    directory.mkdir(parents=True)
    (directory / "summary.json").write_text("{}")
    (directory / "settings.json").write_text(json.dumps({"model": f"/models/{directory.name}", "task": "sums"}))
    rows = [record(n, f"{directory.name} says {n}", n in right) | changes for n in range(5)]
    (directory / "examples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in reversed(rows)))
    if problems is not None:
        (directory / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in problems))
    return directory


def headings(page: str) -> list[int]:
    return [int(number) for number in re.findall(r"<h2>Problem (\d+)</h2>", page)]


def test_problems_on_which_the_models_differ_come_first_and_that_is_said(tmp_path: Path) -> None:
    one, two = evaluation(tmp_path / "one", {0, 1, 2}), evaluation(tmp_path / "two", {0, 1, 3, 4})
    path = write_page([one, ("second", two)], limit=4)
    assert path == one / "completions.html"
    page = path.read_text()
    assert headings(page) == [2, 3, 4, 0]
    assert "4 of the 5 problems that all models answered. They are not a random sample" in page
    assert "solve alike (3)" in page
    rows = re.findall(r"<th scope=row>(\w+)</th><td>([\d.]+) %", page)
    assert rows == [("one", "60.0"), ("second", "80.0")]  # over all problems, shown or not
    assert page.count('class="problem same"') == 1
    assert "Expected: <b>3</b>" in page and "two says 3" in page
    assert headings(write_page([one, two], tmp_path / "all.html").read_text()) == [2, 3, 4, 0, 1]  # type: ignore[union-attr]


def test_problems_are_matched_by_their_text(tmp_path: Path) -> None:
    """Problems are the same although models were asked with or without a chat template, or in another order."""
    chat = [
        {
            "prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": row["prompt"]}],
            "answer": None,
        }
        for row in PROBLEMS[::-1]
    ]
    one, two = evaluation(tmp_path / "one", {1}), evaluation(tmp_path / "two", set(), problems=chat)
    page = write_page([two, one], tmp_path / "page.html", problems=[3])
    assert page is not None
    text = page.read_text()
    assert headings(text) == [3]
    assert "System: Be brief." in text and "What is 1 + 1?" in text
    assert "two says 3" in text and "one says 1" in text
    with pytest.raises(ConfigurationError, match=r"problem: got 9, expected an index .* from 0 to 4"):
        write_page([one, two], problems=[9])
    other = evaluation(tmp_path / "other", set(), problems=[{"prompt": f"{n}?"} for n in range(5)])
    with pytest.raises(DataError, match="No problem is in all of these"):
        write_page([one, other])


def test_what_a_model_wrote_is_escaped_everywhere(tmp_path: Path) -> None:
    problems = [{"prompt": HOSTILE, "answer": HOSTILE}, *PROBLEMS[1:]]
    one = evaluation(tmp_path / "one", set(), problems=problems, completion=HOSTILE, reason=HOSTILE)
    path = write_page([(HOSTILE, one)], tmp_path / "page.html", problems=[0])
    assert path is not None
    page = path.read_text()
    assert "<script" not in page and "<img" not in page and "\x00" not in page and "\x1b" not in page
    assert page.count("&lt;script&gt;") >= 4 and "{{style}}" in page  # what looks like a part of the template is text
    assert "\ufffd[31m" in page


def test_samples_limits_and_divergences_are_told(tmp_path: Path) -> None:
    one = evaluation(tmp_path / "one", set())
    rows = [
        record(0, "first", True),
        record(0, "second", False, 1, truncated=True, reason="no answer", kl=0.1234),
        record(0, "", False, 2),
    ]
    (one / "examples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"prompt": 0, "sam')
    page = write_page([one], tmp_path / "page.html")
    assert page is not None
    text = page.read_text()
    assert "1 of 3 right" in text and "2 more samples" in text
    assert "cut by the limit, no answer, KL to the teacher 0.123 nats" in text
    assert "<i>(empty)</i>" in text
    assert "<td>33.3 %" in text


def test_an_evaluation_without_its_problems_is_shown_by_number(tmp_path: Path) -> None:
    one = evaluation(tmp_path / "one", {1}, problems=None)
    page = write_page([one], tmp_path / "page.html", problems=[1])
    assert page is not None and "(The text of problem 1 was not kept.)" in page.read_text()


def test_an_unfinished_evaluation_is_called_so(tmp_path: Path) -> None:
    one = evaluation(tmp_path / "one", {0, 1})
    assert [column.source for column in read_columns(one)] == [str(one)]
    (one / "summary.json").unlink()
    settings = json.loads((one / "settings.json").read_text())
    (one / "settings.json").write_text(json.dumps(settings | {"num_samples": 2}))
    rows = [record(prompt, "so", True, sample) for prompt in (0, 1) for sample in (0, 1)] + [record(2, "so", True)]
    (one / "examples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"prompt": 2, "sam')
    page = write_page([one], tmp_path / "page.html")
    assert page is not None and f"<td>{one} (unfinished: 2 of 5 problems)</td>" in page.read_text()
    (one / "problems.jsonl").unlink()
    assert [column.source for column in read_columns(one)] == [f"{one} (unfinished: 2 problems)"]


NO_RECORD = r"examples.jsonl, record 1: got .*, expected that of a completion, with"
NO_RECORDS: list[Any] = [[], {"sample": 0}, record(0, "so", True) | {"passed": None}]


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("examples.jsonl", "", "one has no completions yet; start the same command again"),
        *(("examples.jsonl", json.dumps(row), NO_RECORD) for row in NO_RECORDS),
        ("examples.jsonl", json.dumps(record(0, "so", True, num_tokens="3")), "record 1: got num_tokens '3', expected"),
        ("examples.jsonl", json.dumps(record(-1, "so", True)), "got a completion of problem -1, expected one of 0 to"),
        ("problems.jsonl", "[1]", r"problems.jsonl, line 1: got \[1\], expected a problem"),
        ("problems.jsonl", '{"prompt": ["a"]}', "problems.jsonl, line 1: got .*, expected a problem"),
        ("problems.jsonl", '{"prompt": "a"}', "got a completion of problem 1, expected one of 0 to 0"),
    ],
)
def test_files_that_hold_something_else(file: str, text: str, message: str, tmp_path: Path) -> None:
    one = evaluation(tmp_path / "one", {0}, problems=PROBLEMS if file == "problems.jsonl" else None)
    (one / file).write_text(text + "\n")
    with pytest.raises(DataError, match=message):
        write_page([one], tmp_path / "page.html")


def sweep(directory: Path, *, completions: bool = True) -> Path:
    """A directory of `effopd sweep`: two methods, of which one has matched norms, and an early one only."""
    points = [
        ("OPD", "scale", 0.0, 2, 30.0), ("OPD", "scale", 1.0, 2, 30.0), ("OPD", "checkpoint", 1.0, 0, 1.0),
        ("OPD", "beta", 0.0, 1, 3.0), ("OPD", "beta", 1.0, 1, 3.0), ("OPD", "norm-match", 1.0, 0, 1.0),
        ("RL", "checkpoint", 1.0, 0, 1.0), ("RL", "checkpoint", 2.0, 1, 2.0), ("RL", "base", 0.0, 1, 2.0),
    ]  # fmt: skip
    directory.mkdir(parents=True)
    rows = []
    for number, (run, kind, value, checkpoint, step) in enumerate(points):
        for seed in (0, 1):
            cell = f"{number}-{seed}"
            place = {"run": run, "kind": kind, "value": value, "checkpoint": checkpoint, "step": step}
            rows.append(place | {"cell": cell, "training_seed": 0, "task": "sums", "seed": seed, "sweep": "s"})
            if completions:
                lines = [json.dumps(record(n, f"{run} {kind} {value:g}", n == number)) for n in range(5)]
                (directory / "completions").mkdir(exist_ok=True)
                (directory / "completions" / f"{cell}.jsonl.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    pd.DataFrame(rows).to_parquet(directory / "results.parquet")
    (directory / "problems").mkdir()
    (directory / "problems" / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in PROBLEMS))
    identity = {
        "spec": {"sweeps": [], "tasks": [{"name": "sums", "task": "x.jsonl"}]},
        "runs": {"OPD": [[{}, {}, {}]], "RL": [[{}, {}]]},
        "problems": {"sums": "d"},
    }
    (directory / "sweep.json").write_text(json.dumps(identity))
    return directory


def test_a_sweep_gives_the_models_of_the_worked_example(tmp_path: Path) -> None:
    directory = sweep(tmp_path / "sweep")
    columns = {column.name: column.source.partition(": ")[2] for column in read_columns(directory)}
    assert columns == {
        "base": "OPD, checkpoint 2, curve scale at 0",
        "OPD: early (step 3)": "OPD, checkpoint 1, curve beta at 0",
        "OPD: early, with the final norm": "OPD, checkpoint 1, curve beta at 1",
        "OPD: final": "OPD, checkpoint 2, curve scale at 1",
        "RL: early (step 1)": "RL, checkpoint 0, curve checkpoint at 1",
        "RL: final": "RL, checkpoint 1, curve checkpoint at 2",
    }
    assert [column.name for column in read_columns(directory, "mine", curve="norm-match")] == [
        "mine: OPD: norm-match 1"
    ]
    for arguments, message in (
        ({"curve": "window"}, "has no window yet; its curves are scale, checkpoint, beta, norm-match, base"),
        ({"task": "math"}, "got the task 'math', expected one of sums"),
    ):
        with pytest.raises(DataError, match=message):
            read_columns(directory, **arguments)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="has no completions"):
        read_columns(sweep(tmp_path / "without", completions=False))


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, swept = evaluation(tmp_path / "one", {1}), sweep(tmp_path / "a=b" / "sweep")
    assert main(["show", str(swept), f"teacher={one}", "--limit", "2"]) == 0
    path = swept / "completions.html"
    assert capsys.readouterr().out == f"Page: {path}\n"
    assert path.read_text().count("<h3>teacher</h3>") == 2
    assert main(["show", str(one), "--out", "-", "--problem", "1"]) == 0
    assert headings(capsys.readouterr().out) == [1]
    assert main(["show", str(tmp_path)]) == 1
    assert "holds neither a sweep nor an evaluation" in capsys.readouterr().err
    shutil.rmtree(one)
    assert main(["show", str(one)]) == 1
    with pytest.raises(SystemExit):
        main(["show", "=x"])


@pytest.mark.skipif(
    not (shutil.which("chromium") or shutil.which("google-chrome")), reason="needs chromium on the PATH"
)
def test_in_a_browser_nothing_runs_and_the_filter_works(tmp_path: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright, of the dev extra")
    one = evaluation(tmp_path / "one", {0}, completion=HOSTILE)
    two = evaluation(tmp_path / "two", {0, 1})
    path = write_page([(HOSTILE, one), two])
    assert path is not None
    complaints: list[str] = []
    with playwright.sync_playwright() as driver:
        chromium = shutil.which("chromium") or shutil.which("google-chrome")
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 390, "height": 800})
        page.on("console", lambda message: complaints.append(message.text))
        page.on("dialog", lambda dialog: complaints.append("dialog"))
        page.on(
            "request", lambda request: complaints.append(request.url) if "completions.html" not in request.url else None
        )
        page.goto(path.as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        sections = page.locator("section.problem")
        assert [sections.nth(n).is_visible() for n in range(5)] == [True] * 5
        page.get_by_label("Only problems that not all models solve alike").check()
        assert [sections.nth(n).is_visible() for n in range(5)] == [True] + [False] * 4
        browser.close()
    assert [each for each in complaints if not each.startswith("data:")] == []
