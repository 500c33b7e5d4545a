"""The columns of the page: what one model wrote, from the directory of an evaluation or of a sweep."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from effopd.errors import DataError
from effopd.files import read_json, read_json_lines

Key = tuple[str, int]
"""Text of a problem, and how many problems of the same text come before it in its task."""

_RECORD = {
    **{"prompt": int, "sample": int, "completion": str, "passed": bool, "reason": str},
    **{"num_tokens": int, "truncated": bool},
}


@dataclass(frozen=True)
class Problem:
    """A problem, as it was put to a model.

    Attributes:
        index: Index in its task, from 0.
        text: Text of the problem: its prompt without roles and without the system's message.
        system: Text of the system's message; None if there is none.
        answer: Expected answer; None if it is no text, or not known.
    """

    index: int
    text: str
    system: str | None
    answer: str | None


@dataclass(frozen=True)
class Column:
    """What one model wrote.

    Attributes:
        name: Name of the model.
        source: Where the completions are from, in words.
        task: Name of the task.
        problems: Problems by key, in the order of the task.
        completions: Records of the completions of each problem, by key (see `effopd.evaluation.ExampleRecord`).
    """

    name: str
    source: str
    task: str
    problems: Mapping[Key, Problem]
    completions: Mapping[Key, list[dict[str, Any]]]

    @cached_property
    def accuracy(self) -> float:
        """Share of a problem's completions that are right, averaged over all problems of the task."""
        return sum(self.share(key) for key in self.completions) / len(self.completions)

    @cached_property
    def mean_tokens(self) -> float:
        """Mean length of a completion in tokens."""
        lengths: list[int] = [record["num_tokens"] for each in self.completions.values() for record in each]
        return sum(lengths) / len(lengths)

    def share(self, key: Key) -> float:
        """Share of the completions of one problem that are right."""
        records = self.completions[key]
        return sum(bool(record["passed"]) for record in records) / len(records)


def read_columns(
    directory: str | Path, name: str | None = None, *, task: str | None = None, curve: str | None = None
) -> list[Column]:
    """Read what models wrote from a directory.

    Args:
        directory: Directory of `effopd evaluate`, which gives one column, or of `effopd sweep`. If an evaluation is
            unfinished, the source of its column says so.
        name: Name of the model for the page; of a sweep, what comes before the names of its models. By default, the
            directory of the model names it.
        task: Task of a sweep; None takes its first one.
        curve: Curve of a sweep, whose points are the columns; None takes the models of the worked example.

    Raises:
        DataError: The directory holds neither, it holds no completions, a file holds something else, or the sweep has
            no such task or curve.
    """
    directory = Path(directory)
    if (directory / "sweep.json").exists():
        from effopd.report.completions.sweep_columns import read_sweep_columns  # here: it loads pandas

        return read_sweep_columns(directory, name, task, curve)
    if not (directory / "settings.json").exists() or not (directory / "examples.jsonl").exists():
        raise DataError(
            f"{directory} holds neither a sweep nor an evaluation; expected what `effopd sweep` or `effopd evaluate`"
            " wrote with --out."
        )
    settings = read_json(directory / "settings.json")
    rows = read_records(directory / "examples.jsonl")
    path, source = directory / "problems.jsonl", str(directory)
    samples = Counter(row["prompt"] for row in rows)
    problems = read_problems(path) if path.exists() else [{} for _ in range(1 + max(samples, default=-1))]
    if not (directory / "summary.json").exists():
        finished = sum(number >= settings.get("num_samples", 1) for number in samples.values())
        source += f" (unfinished: {finished}{f' of {len(problems)}' if path.exists() else ''} problems)"
    label = name or Path(str(settings.get("model", directory))).name
    return [make_column(label, source, str(settings.get("task")), problems, rows)]


def read_records(path: Path, *, may_be_cut: bool = True) -> list[dict[str, Any]]:
    """Read the records of completions.

    Args:
        path: JSON Lines file of them.
        may_be_cut: Whether an interruption may have cut the last line short.

    Raises:
        DataError: The file cannot be read, or a line is no such record.
    """
    rows = read_json_lines(path, may_be_cut=may_be_cut)
    for number, row in enumerate(rows, start=1):
        fields = row if isinstance(row, dict) else {}
        if wrong := [name for name, kind in _RECORD.items() if not isinstance(fields.get(name), kind)]:
            got = f"{wrong[0]} {fields.get(wrong[0])!r}" if fields else json.dumps(row)
            raise DataError(
                f"{path}, record {number}: got {got[:80]}, expected that of a completion, with "
                f"{', '.join(_RECORD)}. Copy the directory again, or start the same command again in another one."
            )
    return rows


def read_problems(path: Path) -> list[dict[str, Any]]:
    """Read the problems of a task.

    Raises:
        DataError: The file cannot be read, or a line is no problem.
    """
    rows = read_json_lines(path)
    for number, row in enumerate(rows, start=1):
        prompt = row.get("prompt") if isinstance(row, dict) else ...
        are_messages = isinstance(prompt, list) and all(isinstance(message, dict) for message in prompt)
        if not (are_messages or isinstance(prompt, str | None)):
            raise DataError(
                f"{path}, line {number}: got {json.dumps(row)[:80]}, expected a problem, an object with `prompt` and "
                "`answer`. Copy the file again, or remove it, to show problems by their numbers."
            )
    return rows


def make_column(
    name: str, source: str, task: str, problems: Sequence[Mapping[str, Any]], rows: Iterable[dict[str, Any]]
) -> Column:
    """Make a column from the problems of a task and the records of completions.

    Args:
        name: Name of the model.
        source: Where the completions are from, in words.
        task: Name of the task.
        problems: Rows with `prompt` and `answer`, which may lack both.
        rows: Records of completions, in any order.

    Raises:
        DataError: There are no completions, or one is of no problem.
    """
    found: dict[Key, Problem] = {}
    before: Counter[str] = Counter()
    keys = []
    for index, row in enumerate(problems):
        text, system = _texts(row.get("prompt"), index)
        key = (text, before[text])
        before[text] += 1
        answer = row.get("answer")
        found[key] = Problem(index, text, system, None if answer is None else str(answer))
        keys.append(key)
    completions: dict[Key, list[dict[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: (row["prompt"], row["sample"])):
        if not 0 <= row["prompt"] < len(keys):
            raise DataError(
                f"{source}: got a completion of problem {row['prompt']}, expected one of 0 to {len(keys) - 1}. Copy "
                "the directory again; it is not whole."
            )
        completions.setdefault(keys[row["prompt"]], []).append(row)
    if not completions:
        raise DataError(f"{source} has no completions yet; start the same command again to finish it.")
    return Column(name, source, task, {key: found[key] for key in keys if key in completions}, completions)


def _texts(prompt: Any, index: int) -> tuple[str, str | None]:
    """Take the text of a problem and of the system's message out of a prompt."""
    if prompt is None:
        return f"(The text of problem {index} was not kept.)", None
    if isinstance(prompt, str):
        return prompt, None
    parts = [(message.get("role"), _content(message.get("content"))) for message in prompt]
    system = [content for role, content in parts if role == "system"]
    return "\n\n".join(content for role, content in parts if role != "system"), "\n\n".join(system) or None


def _content(content: Any) -> str:
    return content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
