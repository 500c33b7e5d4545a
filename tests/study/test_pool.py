"""Training runs on Ray: all are done, a failed one is named, and the others go on."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from effopd.study.plan import make_plan
from effopd.study.pool import do_trainings, session


@pytest.mark.slow
def test_runs_on_ray(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    first = next(make_plan(quick=True).trainings("style"))
    small = replace(first, steps=2, prompts_per_step=8, save_steps=1, evaluation_problems=16)
    jobs = [(replace(small, seed=seed), tmp_path / str(seed)) for seed in (1, 2)]
    broken = replace(small, seed=3, plan=replace(small.plan, acceleration="warp"))
    said: list[str] = []
    with session(2, None) as ray:
        failed = do_trainings([*jobs, (broken, tmp_path / "3")], 2, ray, said.append)
    assert list(failed) == ["opd-3"] and "warp" in failed["opd-3"]
    for training, directory in jobs:
        assert json.loads((directory / "run.json").read_text())["steps"] == training.steps
        assert len(list(directory.glob("checkpoint-*"))) == 2
    assert len(said) == 3 and sum("failed" in line for line in said) == 1


def test_one_worker_needs_no_ray() -> None:
    with session(1, None) as ray:
        assert ray is None
