from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sweeps.short_runs import make

from effopd import evaluation
from effopd.evaluation.settings import TaskSettings
from effopd.sweeps import plan_cells
from effopd.sweeps.worker import CellSettings, Worker
from effopd.world import base_dir

TASKS = {"world": TaskSettings("world", limit=2)}


def test_after_an_error_nothing_is_taken_from_memory(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = plan_cells(make(root, runs={"a": "grpo-0"})).cells[0]
    worker = Worker(CellSettings(str(base_dir()), tasks=TASKS))
    assert worker.attempt(cell).error is None
    assert worker._loaded is not None

    def fail(*arguments: Any, **options: Any) -> None:
        raise ValueError("no luck")

    monkeypatch.setattr(evaluation, "evaluate", fail)
    assert str(worker.attempt(cell).error).startswith("ValueError: no luck (")
    assert worker._loaded is None and worker._resident is None


def test_a_divergence_is_not_below_zero(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = SimpleNamespace(
        interval=(0.0, 1.0),
        kl_per_token=0.1,
        kl_per_token_standard_error=0.2,
        kl_per_sequence=0.1,
        records=[SimpleNamespace(prompt=0)],
        mean=0.5,
        standard_error=0.1,
        truncation_rate=0.0,
        num_tokens=3.0,
    )
    monkeypatch.setattr(evaluation, "evaluate", lambda *arguments, **options: result)
    cell = plan_cells(make(root, runs={"a": "grpo-0"})).cells[0]
    measured = Worker(CellSettings(str(base_dir()), tasks=TASKS, completions=False)).run(cell).measured
    assert measured is not None
    assert measured["kl_low"] == 0
    assert measured["kl_high"] == pytest.approx(0.1 + 1.96 * 0.2, rel=1e-4)
