"""`effopd curves` on evaluations: whose step counts, and files that are not those of an evaluation."""

import json
from pathlib import Path
from typing import Any

import pytest

from effopd.curves import draw_curves
from effopd.errors import DataError

SUMMARY = {"task": "math500", "mean": 0.5, "interval": [0.4, 0.6], "num_problems": 4, "task_digest": "a"}


def evaluation(directory: Path, **summary: Any) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "summary.json").write_text(json.dumps({"model": str(directory), **SUMMARY, **summary}))
    return directory


@pytest.mark.parametrize(("recorded", "step"), [({"step": 100}, 100), ({}, 200)])
def test_the_step_in_the_summary_comes_before_that_of_the_model_now(
    recorded: dict[str, int], step: int, tmp_path: Path
) -> None:
    place = evaluation(tmp_path / "evaluation", model=str(tmp_path / "run"), **recorded)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text('{"steps": 200}')  # training has gone on since
    draw_curves({"OPD": place}, tmp_path / "out")
    assert f"| {step} |" in (tmp_path / "out.md").read_text()


def test_a_step_that_was_not_known_is_not_looked_up_later(tmp_path: Path) -> None:
    place = evaluation(tmp_path / "evaluation", step=None)
    (place / "run.json").write_text('{"steps": 200}')
    with pytest.raises(DataError, match="The step of the model is not known"):
        draw_curves({"OPD": place}, tmp_path / "out")


@pytest.mark.parametrize(
    "changes",
    [
        *({"interval": each} for each in (None, [0.4], [None, 1], {"0": 1, "1": 2})),
        *({"num_problems": None}, {"mean": None}, {"mean": "high"}, {"model": None}, {"task": 3}, {"step": "last"}),
    ],
)
def test_summaries_of_something_else_are_refused(changes: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"summary.json: got model .*; expected .*Evaluate the model again"):
        draw_curves({"OPD": evaluation(tmp_path, **({"step": 1} | changes))}, tmp_path / "out")


def test_a_summary_that_is_no_object_is_refused(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text("[]")
    with pytest.raises(DataError, match=r"summary.json holds a list; expected a JSON object"):
        draw_curves({"OPD": tmp_path}, tmp_path / "out")


@pytest.mark.parametrize(
    "row", [[], {"accuracy": 0.5}, {"step": 2, "accuracy": "high"}, {"step": None, "accuracy": 0.5}]
)
def test_metrics_of_something_else_are_refused(row: Any, tmp_path: Path) -> None:
    rows = [{"step": 1, "accuracy": 0.5}, row]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    with pytest.raises(DataError, match=r"metrics.jsonl, row 2: got .*, expected an object with `step`"):
        draw_curves({"OPD": tmp_path}, tmp_path / "out")


def test_an_evaluation_that_is_found_twice_counts_once(tmp_path: Path) -> None:
    evaluation(tmp_path / "run" / "a", step=10, mean=0.6)
    other = evaluation(tmp_path / "run" / "base", step=0)
    draw_curves({"OPD": [tmp_path / "run", tmp_path / "run" / "a"]}, tmp_path / "out", base=other)
    table = (tmp_path / "out.md").read_text()
    assert (
        "| 10 |" in table
        and "| 0 |" in table
        and "2" not in [cell.strip() for line in table.splitlines() for cell in line.split("|")]
    )
