"""What `what_to_move.py` freezes, plans and reports, without training."""

import math
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import what_to_move as benchmark
import what_to_move_report as report
from what_to_move_run import Run, evaluate_whole_answers, frozen_names

SIZES = {"a": 100, "b": 100, "c": 50, "d": 50, "e": 100}
MEAN_SQUARES = {"a": 0.1, "b": 0.2, "c": 3.0, "d": 2.0, "e": 1.5}


@pytest.fixture
def analysis(tmp_path: Path) -> Path:
    rows = [
        {
            **{"run": "early", "checkpoint": 0, "parameter": name, "rows": size, "cols": 1},
            "frobenius_norm": math.sqrt(MEAN_SQUARES[name] * size),
        }
        for name, size in SIZES.items()
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "updates.parquet")
    return tmp_path


def test_the_controls_freeze_about_as_much_as_the_low_ones(analysis: Path) -> None:
    """The parameters a and b have a low utility; together they have 200 elements."""
    assert frozen_names("high", analysis, 0) == ["c", "d", "e"]
    drawn = [frozen_names("random", analysis, seed) for seed in range(20)]
    assert drawn[0] == frozen_names("random", analysis, 0)
    assert len({tuple(names) for names in drawn}) > 5
    assert all(100 < sum(SIZES[name] for name in names) <= 200 for names in drawn)


@pytest.mark.parametrize("world", benchmark.WORLDS)
def test_runs_have_names_of_their_own_and_every_arm_is_in_a_part(world: str) -> None:
    runs = [run for part in benchmark.PARTS for run in benchmark.planned(part, world, [0, 1])]
    by_name = {run.name: run for run in runs}
    assert all(by_name[run.name] == run for run in runs)
    weak = {arm for arm in benchmark.ARMS if arm.startswith("weak") and benchmark.WORLDS[world].weak_target is None}
    assert {run.arm for run in runs} == benchmark.ARMS.keys() - weak


def test_evaluation_alone_samples_whole_answers() -> None:
    seen: list[int] = []
    trainer: Any = SimpleNamespace(generation_config=SimpleNamespace(max_new_tokens=4))
    trainer.evaluate = lambda: seen.append(trainer.generation_config.max_new_tokens)
    evaluate_whole_answers(trainer, 12)
    trainer.evaluate()
    assert (seen, trainer.generation_config.max_new_tokens) == ([12], 4)


def record(arm: str, seed: int, rollouts: int | None, spent: int = 4096) -> dict[str, Any]:
    run = Run("style", arm, seed, 1e-3, 32, 0.95, 4096, 256)
    frozen = {"elements": 30, "elements_of_all": 100, "optimizer_bytes": 7000, "optimizer_bytes_saved": 3000}
    quantities = {f"{name}_to_target": rollouts for name in ("steps", "rollouts", "generated_tokens", "cpu_seconds")}
    return {
        "run": asdict(run),
        **quantities,
        "spent": dict.fromkeys(quantities, rollouts or spent),
        "evaluations": [[8, 256, 0.9 + seed / 100]],
        "frozen": frozen if "frozen" in arm else None,
        "cpu_seconds_per_step": 0.1,
        "num_accepted": 0,
        "final_accuracy": 0.95,
        "made": {},
        "versions": {"effopd": "1"},
    }


def costs_of(**arms: list[int | None]) -> dict[str, list[dict[str, Any]]]:
    return {arm: [record(arm, seed, cost) for seed, cost in enumerate(costs)] for arm, costs in arms.items()}


def test_gains_that_multiply_have_an_interaction_of_one() -> None:
    pair = report.Pair("A", "B", "rollouts", ("none", "one", "other", "both"))
    multiplied = report.multiply(
        costs_of(none=[800, 1600, 2400], one=[400, 800, 1200], other=[200, 400, 600], both=[100, 200, 300]), pair
    )
    assert multiplied is not None
    assert multiplied["interaction"] == pytest.approx(1)
    assert multiplied["interval"] == pytest.approx([1, 1])
    assert multiplied["cells"][:7] == ["1,600", "800", "400", "200", "2.00", "4.00", "8.00"]
    overlapping = report.multiply(
        costs_of(none=[800, 800], one=[400, 400], other=[400, 400], both=[400, 200 * math.sqrt(2)]), pair
    )
    assert overlapping is not None
    low, high = overlapping["interval"]
    assert overlapping["interaction"] == pytest.approx(2**-0.75)
    assert low < 2**-0.75 < 1 < high
    assert report.multiply(costs_of(none=[8], one=[4], other=[4]), pair) is None


def test_a_run_that_does_not_arrive_leaves_the_interaction_unknown() -> None:
    pair = report.Pair("A", "B", "rollouts", ("none", "one", "other", "both"))
    found = report.multiply(costs_of(none=[None, None], one=[400, 400], other=[400, 400], both=[200, 200]), pair)
    assert found is not None
    assert (found["interaction"], found["interval"]) == (None, [None, None])
    assert found["cells"][-1] == "a run is censored"


def test_the_page_has_costs_ratios_and_what_freezing_saves(tmp_path: Path) -> None:
    arms = costs_of(**{"vanilla": [400, 500, 600], "frozen-low": [800, 1000, None]})
    records = [each for group in arms.values() for each in group]
    report.write_report({("style", "freezing"): records}, tmp_path, "python x", "**Not finished.**")
    text = (tmp_path / "what_to_move.md").read_text()
    assert "**Not finished.**" in text
    [low] = [line for line in text.splitlines() if line.startswith("| frozen-low")]
    assert "| 1,000 [800, no bound] | 0.50 [0.00, 0.50] | 0.910 [0.900, 0.920] | 0.30 | 7 of 10 |" in low
