"""One run of `grid.py`: it goes on after the target, is measured there and at its end, and is not disturbed by that."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import grid_run
import pytest
import torch
from fabricated_runs import ROOT, plan
from grid_plan import Plan

import effopd.world
from effopd.errors import DivergedError


def tiny(method="vanilla", **changes):
    made = Plan.read(quick=True)
    return replace(made.run("style", method, (1e-3, 64), 0), **changes)


def measure(model, tokenizer, base, config):
    """Stands in for the second skill: draws random numbers, and tells how far the model is from its base."""
    distance = sum((mine - its).abs().sum() for mine, its in zip(model.parameters(), base.parameters(), strict=True))
    return {
        "accuracy": torch.rand(()).item(),
        "num_examples": 1,
        "kl_to_base": {"nats_per_token": distance.item()},
    }


@pytest.fixture
def second_skill(monkeypatch):
    monkeypatch.setattr(effopd.world, "measure_second_skill", measure, raising=False)


def test_a_run_goes_on_after_its_target(tmp_path, second_skill):
    record = grid_run.do_run(tiny(target_accuracy=0.6), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    json.dumps(record, allow_nan=False)
    reached = record["rollouts_to_target"]
    assert record["evaluations"][0][1] == 64
    assert record["after_target"]["rollouts"] == min(max(reached, 64), 128)
    assert record["spent"]["rollouts_to_target"] == reached + record["after_target"]["rollouts"]
    assert 0 < record["cpu_seconds_to_target"] < record["spent"]["cpu_seconds_to_target"]
    assert record["evaluation_cpu_seconds"] > 0
    assert record["at_target"]["accuracy"] >= 0.6
    assert record["base_second_skill"]["kl_to_base"] == 0
    assert record["at_target"]["second_skill"]["kl_to_base"] > 0
    assert record["base_second_skill"]["accuracy"] == record["at_target"]["second_skill"]["accuracy"]  # the same draw
    assert 0.5 < record["final"]["accuracy"] <= 1
    assert record["final"]["reverse_kl"] > record["final"]["reverse_kl_per_token"] > 0
    assert record["run"] == tiny(target_accuracy=0.6).recorded()


def test_a_run_is_given_up_at_its_limit_and_not_disturbed_by_what_is_measured(tmp_path, second_skill, monkeypatch):
    run = tiny(target_accuracy=1.0, limit=128)
    record = grid_run.do_run(run, tmp_path / "run")
    assert (record["rollouts_to_target"], record["at_target"], record["after_target"]) == (None, None, None)
    assert record["spent"]["rollouts_to_target"] == 128
    assert record["final"] is not None
    monkeypatch.delattr(effopd.world, "measure_second_skill")
    plain = grid_run.do_run(run, tmp_path / "run")
    assert plain["base_second_skill"] is None
    assert plain["evaluations"] == record["evaluations"]
    assert plain["final"] == record["final"]


def test_measuring_the_second_skill_leaves_the_random_numbers_and_the_mode(second_skill):
    model = torch.nn.Linear(2, 2)
    trainer = SimpleNamespace(
        model=model,
        processing_class=None,
        accelerator=SimpleNamespace(unwrap_model=lambda each: each, device=torch.device("cpu")),
    )
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    first, second = (grid_run.second_skill(trainer, "style", model) for _ in range(2))
    assert torch.equal(torch.rand(3), expected)
    assert first == second
    assert model.training


def test_a_run_that_diverges_is_an_outcome(tmp_path, monkeypatch):
    step = grid_run.EvaluateNearTarget.on_step_end

    def diverge(self, args, state, control, **kwargs):
        if state.global_step == 2:
            raise DivergedError("not finite")
        return step(self, args, state, control, **kwargs)

    monkeypatch.setattr(grid_run.EvaluateNearTarget, "on_step_end", diverge)
    record = grid_run.do_run(tiny(target_accuracy=1.0), tmp_path / "run")
    assert record["diverged"]
    assert (record["steps_to_target"], record["final"]) == (None, None)
    assert record["spent"]["rollouts_to_target"] == 128
    assert record["spent"]["cpu_seconds_to_target"] > 0


def test_the_settings_of_a_run(tmp_path):
    made = plan()
    arguments, config = grid_run.settings(made.run("style", "sgd", (0.1, 64), 3), tmp_path)
    assert (config.optim, config.learning_rate, config.seed) == ("sgd", 0.1, 3)
    assert (arguments.acceleration, arguments.target_accuracy) == ("none", None)
    assert config.max_steps * 64 >= 24_000 + 4_096
    arguments, config = grid_run.settings(made.run("style", "passes-4", (1e-4, 64), 3), tmp_path)
    assert (arguments.acceleration, arguments.extrapolation) == ("line_search", {"passes": 4, "scales": []})
    assert config.max_steps * 64 >= 4 * (24_000 + 4_096)


@pytest.mark.slow
def test_everything_at_once(tmp_path):
    command = [sys.executable, str(ROOT / "benchmarks" / "grid.py"), "--quick", "--out", str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    first = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, cwd=tmp_path).stdout
    assert "1 to do" in first
    names = sorted(path.name for path in (tmp_path / "style").iterdir())
    assert names == ["adaptive-lr0.001-b64-s0.json", "vanilla-lr0.001-b64-s0.json"]
    assert {"grid.md", "grid-style.png", "when_does_it_help.md"} <= {
        each.name for each in (tmp_path / "results").iterdir()
    }
    page = (tmp_path / "results" / "grid.md").read_text()
    command.append("--report-only")
    again = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, cwd=tmp_path).stdout
    assert "to do" not in again
    assert (tmp_path / "results" / "grid.md").read_text() == page
