"""Tasks: the world, local files, and benchmarks in their own formats."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sandbox.sandboxes import needs_bubblewrap

from effopd.errors import DataError, EffOPDError
from effopd.evaluation import Task, load_task
from effopd.evaluation.benchmarks import BENCHMARKS, BOXED
from effopd.evaluation.tasks import DEFAULT_WORLD_PROBLEMS

MATH500 = {
    "problem": "1/2 + 1/2?",
    "solution": "...",
    "answer": "1",
    "subject": "Algebra",
    "level": 1,
    "unique_id": "a",
}
GPQA = {
    "Question": "Which?",
    "Correct Answer": "right\n",
    "Incorrect Answer 1": "one",
    "Incorrect Answer 2": "two",
    "Incorrect Answer 3": "three",
    "Record ID": "rec",
}
HUMANEVAL = {
    "task_id": "HumanEval/0",
    "prompt": 'def double(x: int) -> int:\n    """Twice x."""\n',
    "canonical_solution": "    return 2 * x\n",
    "test": "METADATA = {}\n\n\ndef check(candidate):\n    assert candidate(2) == 4\n    assert candidate(0) == 0\n",
    "entry_point": "double",
}
MBPP = {
    "source_file": "a",
    "task_id": 2,
    "prompt": "Write a function to double a number.",
    "code": "def double(x):\n    return 2 * x",
    "test_imports": ["import math"],
    "test_list": ["assert double(2) == 4", "assert math.isclose(double(0.5), 1)"],
}
CODEFORCES = {
    "id": "1/A",
    "title": "Sum",
    "description": "Add two numbers.",
    "input_format": "Two numbers.",
    "output_format": "Their sum.",
    "interaction_format": None,
    "note": None,
    "examples": [{"input": "1 2\n", "output": "3\n"}],
    "official_tests": [{"input": "1 2\n", "output": "3\n"}, {"input": "4 4\n", "output": "8\n"}],
    "time_limit": 2.0,
    "memory_limit": 256.0,
    "input_mode": "stdio",
    "generated_checker": None,
}
TACO = {
    "question": "Add two numbers.",
    "starter_code": "",
    "input_output": json.dumps({"inputs": ["1 2\n", ["4", "4"]], "outputs": ["3\n", ["8"]]}),
    "difficulty": "EASY",
}
ADD = "```python\nprint(sum(map(int, open(0).read().split())))\n```"
DOUBLE = "```python\ndef double(x):\n    return 2 * x\n```"

# For each benchmark: a row as it is published, what passes, and what does not.
ROWS: dict[str, tuple[dict[str, Any], str, str]] = {
    "math500": (MATH500, r"\boxed{1}", r"\boxed{2}"),
    "aime24": ({"id": 60, "problem": "P?", "solution": "s", "answer": "033", "url": "u"}, r"\boxed{33}", r"\boxed{3}"),
    "aime25": ({"problem": "P?", "answer": "70", "id": "0"}, r"\boxed{70}", "71"),
    "aime26": ({"problem_idx": 1, "answer": 277, "problem": "P?"}, r"\boxed{277}", ""),
    "minerva": ({"question": "P?", "answer": "1.5e2"}, r"\boxed{150}", r"\boxed{15}"),
    "gsm8k": (
        {"question": "P?", "answer": "3 - 1 = <<3-1=2>>2 eggs\n#### 1,002"},
        r"\boxed{1002}",
        r"\boxed{1}",
    ),
    "gpqa": (GPQA, "", r"\boxed{E}"),
    "humaneval": (HUMANEVAL, DOUBLE, "```python\ndef double(x):\n    return x\n```"),
    "mbpp": (MBPP, DOUBLE, "```python\ndef double(x):\n    return x\n```"),
    "codeforces": (CODEFORCES, ADD, "```python\nprint(3)\n```"),
    "taco": (TACO, ADD, "```python\nprint(3)\n```"),
}


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_every_benchmark_has_a_row_here() -> None:
    assert ROWS.keys() == BENCHMARKS.keys()


@needs_bubblewrap
@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_file_in_the_benchmarks_own_format(name: str, tmp_path: Path) -> None:
    row, right, wrong = ROWS[name]
    task = load_task(name, data=write(tmp_path / "rows.jsonl", [row, row]))
    assert len(task.prompts) == len(task.answers) == 2
    assert task.max_new_tokens == BENCHMARKS[name].max_new_tokens
    right = right or rf"\boxed{{{task.answers[0]}}}"
    verdicts = task.grader([right, wrong], task.answers)
    assert [verdict.passed for verdict in verdicts] == [True, False]


def test_the_hub_and_a_file_go_the_same_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def load_dataset(name: str, config: str | None, split: str) -> datasets.Dataset:
        asked.append((name, config, split))
        return datasets.Dataset.from_list([MATH500, MATH500, MATH500])

    monkeypatch.setattr("effopd.evaluation.dataset_rows.load_dataset", load_dataset)
    task = load_task("math500", limit=2)
    assert asked == [("HuggingFaceH4/MATH-500", None, "test")]
    assert task == load_task("math500", data=write(tmp_path / "rows.jsonl", [MATH500] * 3), limit=2)
    assert task.prompts[0] == f"1/2 + 1/2?\n\n{BOXED}"
    assert len(task.prompts) == 2


def test_the_hub_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*arguments: Any, **keywords: Any) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr("effopd.evaluation.dataset_rows.load_dataset", load_dataset)
    with pytest.raises(DataError, match=r"(?s)openai/gsm8k: .*'main': no network.*--data FILE"):
        load_task("gsm8k")


def test_choices_are_shuffled_by_the_seed_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "gpqa.jsonl", [GPQA] * 40)
    task = load_task("gpqa", data=path)
    assert task == load_task("gpqa", data=path)
    assert task.answers != load_task("gpqa", data=path, seed=1).answers
    assert set(task.answers) == set("ABCD")
    for prompt, answer in zip(task.prompts, task.answers, strict=True):
        assert f"{answer}) right\n" in prompt


def test_problems_that_cannot_be_graded_are_named(tmp_path: Path) -> None:
    rows = [
        CODEFORCES | {"generated_checker": "def check(): ..."},
        CODEFORCES | {"interaction_format": "Ask."},
        CODEFORCES,
        CODEFORCES | {"official_tests": []},
    ]
    path = write(tmp_path / "rows.jsonl", rows)
    with pytest.warns(UserWarning, match="left out 3 problems, 1 because it has several right outputs"):
        assert len(load_task("codeforces", data=path).prompts) == 1
    path = write(
        tmp_path / "taco.jsonl", [TACO, {**TACO, "input_output": {"fn_name": "f", "inputs": [], "outputs": []}}]
    )
    with pytest.warns(UserWarning, match="left out 1 problems, 1 because it calls a function"):
        assert load_task("taco", data=path).answers[0]["stdin"][1] == {"input": "4\n4", "output": "8"}


@pytest.mark.parametrize("suffix", ["json", "jsonl", "parquet", "arrow"])
def test_kinds_of_files(suffix: str, tmp_path: Path) -> None:
    rows, path = [{"prompt": "1 + 1?", "answer": "2"}, {"prompt": "1 + 2?", "answer": "3"}], tmp_path / f"rows.{suffix}"
    if suffix == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif suffix == "arrow":
        datasets.Dataset.from_list(rows).save_to_disk(tmp_path / "set")
        next((tmp_path / "set").glob("*.arrow")).rename(path)
    elif suffix == "json":
        path.write_text(json.dumps(rows))
    else:
        write(path, rows)
    task = load_task(str(path))
    assert (task.prompts, task.answers) == (["1 + 1?", "1 + 2?"], ["2", "3"])
    assert [verdict.passed for verdict in task.grader([r"\boxed{2}", r"\boxed{2}"], task.answers)] == [True, False]
    assert load_task(str(path), limit=1).answers == ["2"]


@needs_bubblewrap
def test_a_file_of_code(tmp_path: Path) -> None:
    path = write(tmp_path / "code.jsonl", [{"prompt": "Double.", "tests": {"unit": "assert double(2) == 4"}}])
    task = load_task(str(path))
    assert task.grader([DOUBLE], task.answers)[0].passed


def test_the_world() -> None:
    task = load_task("world", limit=20)
    assert len(task.prompts) == 20
    assert task == replace(load_task("world:evaluation", limit=20), name="world")
    assert task.max_new_tokens == 12
    assert not set(task.prompts) & set(load_task("world:validation", limit=20).prompts)
    assert task.prompts != load_task("world", limit=20, seed=1).prompts
    assert len(load_task("world").prompts) == DEFAULT_WORLD_PROBLEMS


def test_as_chat() -> None:
    task = Task("t", ["a", [{"role": "user", "content": "b"}]], ["1", "2"], lambda texts, answers: [], 5).as_chat()
    assert task.prompts == [[{"role": "user", "content": "a"}], [{"role": "user", "content": "b"}]]


@pytest.mark.parametrize(
    ("name", "keywords", "message"),
    [
        ("nothing", {}, "got 'nothing', expected world, a file"),
        ("world:test", {}, "split: got 'test'"),
        ("world", {"limit": 0}, "limit: got 0"),
        ("world", {"data": "rows.jsonl"}, "--data takes the rows of a benchmark"),
        ("taco", {}, "is a script"),
        ("absent.jsonl", {}, "absent.jsonl: there is no such file. Give one"),
        ("math500", {"data": "rows.csv"}, r"there is no such file, expected one whose name ends in \.jsonl"),
        ("math500", {"data": __file__}, r"got a \.py file, expected one whose name ends in \.jsonl"),
    ],
)
def test_wrong_arguments(name: str, keywords: dict[str, Any], message: str) -> None:
    with pytest.raises(EffOPDError, match=message):
        load_task(name, **keywords)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"prompt": "a", "answer": "1"}\n{"prompt": "", "answer": "1"}\n', "row 2: got '' as prompt"),
        ('{"prompt": [{"role": "user"}], "answer": "1"}\n', "row 1: got .* as prompt"),
        ('{"prompt": "a", "answer": "1"}\n{"prompt": "b", "answer": " "}\n', "row 2: no answer"),
        ('{"prompt": "a"}\n', "row 1: no answer; the keys are 'prompt'"),
        (
            '{"question": "a", "final": "1"}\n',
            r"row 1: no prompt and no answer; the keys are 'question', 'final'\. Rows need",
        ),
        ('{"prompt": "a", "tests": {"stdin": []}}\n', "row 1: "),
        ('["a"]\n', "row 1: got a list"),
        ("", "no rows"),
        ("{\n\n", "is not JSON"),
        ('{"prompt": "a", "answer": "1"}\n{"prompt": "b", "ans', "line 2 is not JSON"),
        *(
            (f'{{"prompt": "a", "answer": {answer}}}\n', f"row 1: answer: got {got}")
            for answer, got in (("NaN", "nan"), ("1e999", "inf"), ("[1]", "a list"), ("true", "a bool"))
        ),
        (r'{"prompt": "a", "answer": "\\boxed{}"}', "row 1: answer: it is empty"),
        ('{"prompt": "a", "answer": ' + "1" * 5000 + "}", "line 1 is not JSON"),
    ],
)
def test_wrong_files(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        load_task(str(path))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "rows.parquet",
            r"rows.parquet: there is no such file\. Give one that is there; .* has one.json, other.jsonl\.",
        ),
        ("no/rows.parquet", "there is no such file. There is no directory .* either"),
        ("one.json", r"one.json: got a JSON object, expected an array of objects\. Put what it holds in brackets"),
    ],
)
def test_files_that_are_not_there_or_hold_one_object(name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "one.json").write_text('{"prompt": "a", "answer": "1"}')
    (tmp_path / "other.jsonl").touch()
    with pytest.raises(DataError, match=message):
        load_task(str(tmp_path / name))


def test_unusual_line_ends_within_text_are_text(tmp_path: Path) -> None:
    path, prompt = tmp_path / "rows.jsonl", "a\u2028b\u2029c\x85d"
    path.write_text(json.dumps({"prompt": prompt, "answer": "1"}, ensure_ascii=False) + "\r\n\n", encoding="utf-8")
    assert load_task(str(path)).prompts == [prompt]


@pytest.mark.parametrize(
    ("name", "row", "message"),
    [
        ("math500", {"problem": None}, "row 1: problem: got None, expected text"),
        ("math500", {"problem": " "}, "row 1: problem: got ' ', expected text"),
        ("math500", {"answer": None}, "row 1: answer: got a NoneType"),
        ("math500", {"answer": "$$"}, "row 1: answer: it is empty"),
        ("aime26", {"answer": float("nan")}, "row 1: answer: got nan"),
        ("gsm8k", {"answer": "It is 7."}, "row 1: answer: there is no ####"),
        ("gsm8k", {"answer": "It is 7. ####"}, "row 1: answer: it is empty"),
    ],
)
def test_rows_without_a_problem_or_an_answer(name: str, row: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", [ROWS[name][0] | row])
    with pytest.raises(DataError, match=message):
        load_task(name, data=path)


def test_a_row_that_is_not_the_benchmarks(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", [MATH500, {"question": "?", "answer": "1"}])
    with pytest.raises(
        DataError, match=r"row 2: no column 'problem'; the keys are 'question', 'answer'. .*format of math500"
    ):
        load_task("math500", data=path)
    with pytest.raises(DataError, match="row 1: tests: unit asserts nothing"):
        load_task("mbpp", data=write(path, [MBPP | {"test_list": ["double(2)"]}]))
    with pytest.raises(DataError, match="got 0 prompts"), pytest.warns(UserWarning, match="left out"):
        load_task("codeforces", data=write(path, [CODEFORCES | {"official_tests": None}]))
