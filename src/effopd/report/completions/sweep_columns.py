"""The columns that a sweep gives: the models of the paper's worked example, or the points of a curve."""

from pathlib import Path
from typing import Any

import pandas as pd

from effopd.errors import DataError
from effopd.files import read_json
from effopd.report.completions.columns import Column, make_column, read_problems, read_records
from effopd.report.sweep.records import read_sweep
from effopd.report.sweep.tables import WITHOUT_VALUE


def read_sweep_columns(directory: Path, name: str | None, task: str | None, curve: str | None) -> list[Column]:
    """Read columns from a sweep: of each method the first run, and of its sampling the first seed.

    The arguments are those of `read_columns`.

    Raises:
        DataError: The sweep has no such task or curve, it kept no completions, or a file holds something else.
    """
    records, identity = read_sweep(directory), read_json(directory / "sweep.json")
    rows = records.results
    rows = rows[[(directory / _file(cell)).exists() for cell in rows["cell"]]]
    if rows.empty:
        raise DataError(
            f"{directory} has no completions. The specification says `completions: false`, no cell is finished, or an"
            " earlier version made it. Take another --out and leave `completions` out."
        )
    tasks = list(dict.fromkeys(rows["task"]))
    if task is not None and task not in tasks:
        raise DataError(f"{directory}: got the task {task!r}, expected one of {', '.join(tasks)}.")
    task = task or next(each for each in _names(identity["spec"]["tasks"]) if each in tasks)
    rows = rows[rows["task"] == task]
    digest = identity["problems"][task]
    problems = read_problems(directory / "problems" / f"{digest}.jsonl")
    columns = []
    for label, row in _chosen(directory, rows, identity["runs"], curve):
        label = f"{name}: {label}" if name else label
        value = "" if row["kind"] in WITHOUT_VALUE else f" at {row['value']:g}"
        source = f"{directory}: {row['run']}, checkpoint {row['checkpoint']}, curve {row['kind']}{value}"
        completions = read_records(directory / _file(row["cell"]), may_be_cut=False)
        columns.append(make_column(label, source, task, problems, completions))
    return columns


def _chosen(
    directory: Path, rows: pd.DataFrame, runs: dict[str, list[list[Any]]], curve: str | None
) -> list[tuple[str, dict[str, Any]]]:
    """Choose models, each with its name."""
    several, chosen = len(runs) > 1, []
    for run, seeds in runs.items():
        of_run = rows[rows["run"] == run].sort_values(["training_seed", "seed", "value"], kind="stable")
        of_run = of_run[of_run["training_seed"] == of_run["training_seed"].min()]
        of_run = of_run[of_run["seed"] == of_run["seed"].min()]
        before = f"{run}: " if several else ""
        if curve is not None:
            points = of_run[of_run["kind"] == curve].drop_duplicates("value").to_dict("records")
            chosen += [(f"{before}{curve} {row['value']:g}", row) for row in points]
            continue
        last = len(seeds[0]) - 1
        for label, row in _example(of_run.to_dict("records"), last).items():
            if label != "base":
                chosen.append((before + label, row))
            elif not any(each == "base" for each, _ in chosen):  # it is the same model for all
                chosen.insert(0, (label, row))
    if not chosen:
        kinds = ", ".join(dict.fromkeys(rows["kind"]))
        raise DataError(f"{directory} has no {curve or 'model of the worked example'} yet; its curves are {kinds}.")
    return chosen


def _example(rows: list[dict[str, Any]], last: int) -> dict[str, dict[str, Any]]:
    """Find the models of the worked example among the rows of one run, as far as they are there."""

    def first(*wanted: tuple[str, float | None, int | None]) -> dict[str, Any] | None:
        for kind, value, checkpoint in wanted:
            for row in rows:
                same_value = value is None or row["value"] == value
                if row["kind"] == kind and same_value and checkpoint in (None, row["checkpoint"]):
                    return row
        return None

    early = first(("beta", 0.0, None)) or next(
        (row for row in sorted(rows, key=lambda row: row["checkpoint"]) if row["kind"] == "checkpoint"), None
    )
    if early is not None and early["checkpoint"] == last:
        early = None
    found = {"base": first(("base", None, None), ("scale", 0.0, last)), _named("early", early): early}
    if early is not None:
        scaled = first(("beta", 1.0, early["checkpoint"]), ("norm-match", None, early["checkpoint"]))
        found["early, with the final norm"] = scaled
    found["final"] = first(("trained", None, last), ("scale", 1.0, last), ("checkpoint", None, last))
    return {label: row for label, row in found.items() if row is not None}


def _named(label: str, row: dict[str, Any] | None) -> str:
    return label if row is None or pd.isna(row["step"]) else f"{label} (step {row['step']:.0f})"


def _names(tasks: list[Any]) -> list[str]:
    return [entry if isinstance(entry, str) else entry["name"] for entry in tasks]


def _file(cell: str) -> str:
    return f"completions/{cell}.jsonl.gz"
