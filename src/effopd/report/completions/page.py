"""The page: an HTML file without scripts, in which everything that models wrote is escaped."""

import html
import re
import sys
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from effopd.errors import ConfigurationError, DataError
from effopd.files import write_text
from effopd.report.completions.columns import Column, Key, read_columns

PAGE = "completions.html"
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def write_page(
    directories: Sequence[str | Path | tuple[str, str | Path]],
    out: str | Path | None = None,
    *,
    limit: int = 20,
    problems: Sequence[int] = (),
    task: str | None = None,
    curve: str | None = None,
) -> Path | None:
    """Write a page of what several models wrote on the same problems, side by side.

    Args:
        directories: Directories of sweeps and evaluations, each perhaps with a name for the page before it.
        out: File to write; by default `completions.html` in the first directory. `-` prints the page.
        limit: Number of problems to show, at least 1: those first that not all models solve alike.
        problems: Indices of the problems to show in place of those, from 0.
        task: Task of a sweep; None takes its first one.
        curve: Curve of a sweep, whose points are the columns; None takes the models of the worked example.

    Returns:
        The path of the file; None if the page is printed.

    Raises:
        ConfigurationError: A problem has no such index.
        DataError: A directory cannot be read, or no problem is in all of them.
    """
    places = [each if isinstance(each, tuple) else (None, each) for each in directories]
    columns = [column for name, directory in places for column in read_columns(directory, name, task=task, curve=curve)]
    text = make_page(columns, limit=limit, problems=problems)
    if str(out) == "-":
        sys.stdout.write(text)
        return None
    path = Path(places[0][1], PAGE) if out is None else Path(out)
    write_text(path, text)
    return path


def make_page(columns: Sequence[Column], *, limit: int = 20, problems: Sequence[int] = ()) -> str:
    """Make the HTML of a page.

    Args:
        columns: What each model wrote.
        limit: Number of problems to show.
        problems: Indices of the problems to show in place of those.

    Raises:
        ConfigurationError: A problem has no such index.
        DataError: No problem is in all columns.
    """
    shared = [key for key in columns[0].problems if all(key in column.problems for column in columns)]
    if not shared:
        names = "; ".join(f"{column.source}: {column.task}" for column in columns)
        raise DataError(f"No problem is in all of these, so that nothing can stand side by side: {names}.")
    chosen, note = _choose(columns, shared, limit, problems)
    parts = {
        "style": _asset("page.css"),
        "task": _escaped(columns[0].task),
        "note": _escaped(note),
        "models": "\n".join(_summary(column) for column in columns),
        "problems": "\n".join(_problem(columns, key) for key in chosen),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], _asset("page.html"))


def _choose(columns: Sequence[Column], shared: list[Key], limit: int, problems: Sequence[int]) -> tuple[list[Key], str]:
    """Choose the problems to show, and say in words how they were chosen."""
    every = f"{len(shared)} problems that all models answered"
    if problems:
        by_index = {columns[0].problems[key].index: key for key in shared}
        if missing := [index for index in problems if index not in by_index]:
            raise ConfigurationError(
                f"problem: got {missing[0]}, expected an index of the {every}, from {min(by_index)} to {max(by_index)}."
            )
        return [by_index[index] for index in problems], f"{len(problems)} of the {every}, chosen by hand."
    ordered = sorted(shared, key=lambda key: not _differ(columns, key))
    differing = sum(_differ(columns, key) for key in shared)
    if len(shared) <= limit:
        return ordered, f"All {every}. Those come first that not all models solve alike ({differing})."
    return ordered[:limit], (
        f"{limit} of the {every}. They are not a random sample: those come first that not all models solve alike"
        f" ({differing}). Accuracies are those over all problems."
    )


def _differ(columns: Sequence[Column], key: Key) -> bool:
    return len({column.share(key) for column in columns}) > 1


def _summary(column: Column) -> str:
    numbers = f"{100 * column.accuracy:.1f} %</td><td>{column.mean_tokens:.0f}</td><td>{len(column.problems)}"
    return f"<tr><th scope=row>{_escaped(column.name)}</th><td>{numbers}</td><td>{_escaped(column.source)}</td></tr>"


def _problem(columns: Sequence[Column], key: Key) -> str:
    problem = columns[0].problems[key]
    same = "" if _differ(columns, key) else " same"
    answer = f"<p class=answer>Expected: <b>{_escaped(problem.answer)}</b></p>" if problem.answer is not None else ""
    system = f"<p class=system>System: {_escaped(problem.system)}</p>" if problem.system is not None else ""
    cards = "\n".join(_card(column, key) for column in columns)
    return (
        f'<section class="problem{same}">\n<h2>Problem {problem.index}</h2>\n{system}'
        f"<pre class=prompt>{_escaped(problem.text)}</pre>{answer}\n<div class=cards>\n{cards}\n</div>\n</section>"
    )


def _card(column: Column, key: Key) -> str:
    records = column.completions[key]
    first, *others = map(_completion, records)
    if others:
        share = f" <span class=share>{sum(bool(each['passed']) for each in records)} of {len(records)} right</span>"
        more = f"<details><summary>{len(others)} more samples</summary>{''.join(others)}</details>"
    else:
        share, more = "", ""
    return f"<article>\n<h3>{_escaped(column.name)}{share}</h3>\n{first}{more}\n</article>"


def _completion(record: dict[str, Any]) -> str:
    verdict = "right" if record["passed"] else "wrong"
    facts = [f"{record['num_tokens']} tokens"]
    if record["truncated"]:
        facts.append("cut by the limit")
    if not record["passed"] and (reason := str(record["reason"]).removeprefix("wrong answer").removeprefix(": ")):
        facts.append(reason)
    if record.get("kl") is not None:
        facts.append(f"KL to the teacher {record['kl']:.3g} nats")
    label = {"right": "✓ right", "wrong": "✗ wrong"}[verdict]
    return (
        f"<p class=verdict><b class={verdict}>{label}</b> · {_escaped(', '.join(facts))}</p>"
        f"<pre>{_escaped(record['completion']) or '<i>(empty)</i>'}</pre>"
    )


def _escaped(text: str) -> str:
    """Escape a text for HTML, and show characters that a page cannot hold by a replacement character."""
    return html.escape(_UNPRINTABLE.sub("\ufffd", text.replace("\r\n", "\n")))


def _asset(name: str) -> str:
    return (files("effopd") / "report" / "completions" / "assets" / name).read_text(encoding="utf-8")
