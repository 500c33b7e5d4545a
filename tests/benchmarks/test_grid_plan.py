"""What `grid.yaml` plans: cells, choices by the runs of seed 0, limits and the estimate."""

import json
import math
from contextlib import nullcontext

import grid
import grid_plan
import pytest
from fabricated_runs import fabricate, plan, record
from grid_plan import Plan

VANILLA = ["vanilla", "vanilla-few-prompts"]  # its grid in the world style


def cells(runs):
    return {(run.method, run.learning_rate, run.prompts_per_step) for run in runs}


def by_cell(costs, seconds=None):
    """Outcomes of vanilla's runs, 20,000 rollouts where nothing else is said."""

    def outcome(run):
        cell = run.learning_rate, run.prompts_per_step
        rollouts = costs.get(cell, 12_000 + run.prompts_per_step)
        return {"rollouts": rollouts, "seconds": (seconds or {}).get(cell)}

    return outcome


@pytest.mark.parametrize("quick", [False, True])
def test_every_stage_names_what_there_is(quick):
    made = Plan.read(quick=quick)
    for entry in made._stages.values():
        assert set(entry["methods"]) <= set(made.methods)
        assert set(entry["worlds"]) <= set(made.worlds)
        assert sum(key in entry for key in ("learning_rates", "best", "cells")) == 1
        assert set(entry.get("best", {}).get("of", ())) <= set(made.stages)
    assert made.goals["method"] in made.methods


def test_the_grid_of_vanilla():
    runs = plan().runs("vanilla", "style", ())
    assert len(runs) == 30
    assert {run.seed for run in runs} == {0}
    assert {run.optim for run in runs} == {"adamw_torch_fused"}
    smallest = next(run for run in runs if run.prompts_per_step == 16)
    assert smallest.limit == 800 * 16  # the limit in steps comes first
    assert smallest.name == "style/vanilla-lr1e-05-b16-s0"
    assert next(run for run in runs if run.prompts_per_step == 256).limit == 24_000
    assert plan().runs("vanilla", "long", ()) == []


def test_methods_are_trained_as_they_are_described():
    made = plan()
    passes = made.run("style", "passes-4", (1e-4, 64), 0)
    assert (passes.acceleration, passes.extrapolation) == ("line_search", {"passes": 4, "scales": []})
    assert made.run("style", "sgd", (0.1, 64), 0).optim == "sgd"
    assert made.run("style", "vanilla", (0.1, 64), 0).acceleration == "none"


def test_the_best_cells_are_known_once_all_of_the_grid_is_run():
    made = plan()
    first = [run for stage in VANILLA for run in made.runs(stage, "style", ())]
    records = [record(run, 1000) for run in first[:-1]]
    assert made.runs("vanilla-best", "style", records) is None
    assert made.runs("vanilla-best", "style", [*records, record(first[-1], 1000)]) is not None


def test_the_best_cells_in_rollouts_in_seconds_and_at_each_number_of_prompts():
    made = plan()
    costs = {(1e-3, 16): 200, (1e-3, 32): 300, (3e-4, 16): 400, (1e-3, 64): 600, (3e-4, 256): 3000, (1e-3, 256): 2000}
    records = fabricate(made, by_cell(costs, {(3e-3, 1024): 0.5}), stages=VANILLA)
    chosen = made.runs("vanilla-best", "style", records.values())
    expected = {(1e-3, 16), (1e-3, 32), (3e-4, 16), (3e-3, 1024), (1e-3, 64), (1e-3, 256)}
    assert cells(chosen) == {("vanilla", *cell) for cell in expected}
    assert len(chosen) == 5 * len(expected)


def test_later_seeds_do_not_change_the_choice():
    made = plan()
    records = fabricate(made, by_cell({(1e-3, 32): 300}), stages=VANILLA)
    before = made.runs("vanilla-best", "style", records.values())
    later = [record(run, None) for run in before if run.seed > 0]
    assert made.runs("vanilla-best", "style", [*records.values(), *later]) == before


def test_a_run_that_was_given_up_is_not_the_best():
    made = plan()
    outcomes = by_cell({(1e-3, 32): None, (1e-3, 64): 500})
    records = fabricate(made, outcomes, stages=VANILLA)
    assert ("vanilla", 1e-3, 32) not in cells(made.runs("vanilla-best", "style", records.values()))


def test_a_target_is_nine_tenths_of_the_way(monkeypatch):
    contents = {name: {"sampled_accuracy": {"accuracy": value}} for name, value in (("base", 0.4), ("teacher", 0.9))}
    monkeypatch.setattr("effopd.world.card", lambda world: contents)
    assert grid_plan.target_accuracy("facts") == 0.85
    assert Plan.read().target("style") == 0.95  # which the file gives


def test_the_estimate_counts_training_what_follows_and_evaluation():
    made = plan()
    made._estimate = {
        "seconds_per_rollout": 1.0,
        "seconds_per_step": 10.0,
        "seconds_per_evaluation": 0.0,
        "seconds_per_evaluation_batch": 0.0,
        "seconds_in_all": 5.0,
        "world_factor": {"long": 2.0},
        "method_factor": {"line_search": 3.0},
        "steps": {1e-4: 10, 1e-3: 1},
        "steps_factor": {},
        "most_steps": {"line_search": 4},
    }
    rollouts = 10 * 64 + 1920  # ten steps, and three times as many afterwards
    assert made.run("style", "vanilla", (1e-4, 64), 0).expected_cost == rollouts + rollouts / 64 * 10 + 5
    assert made.run("long", "vanilla", (1e-4, 64), 0).expected_cost == 2 * (rollouts + rollouts / 64 * 10 + 5)
    rollouts = 4 * 64 + 1024  # at least so many afterwards
    assert made.run("style", "line_search", (1e-4, 64), 0).expected_cost == 3 * (rollouts + rollouts / 64 * 10) + 5


def test_all_of_it_takes_about_half_a_day():
    made = plan()

    def outcome(run):
        return {"rollouts": max(16, math.ceil(run.expected_cost))}

    records = fabricate(made, outcome, worlds=made.worlds)
    runs, unknown = made.all_runs(made.worlds, records.values())
    assert not unknown
    assert runs.keys() == records.keys()
    assert 8 < sum(run.expected_cost for run in runs.values()) / 3600 < 15


def test_what_is_missing_is_said(tmp_path):
    made = plan()
    assert grid.finished(made, ["style"], tmp_path)[0] == {}
    for run in [run for stage in VANILLA for run in made.runs(stage, "style", ())]:
        path = tmp_path / f"{run.name}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(record(run, 100 * run.prompts_per_step)))
    records, note = grid.finished(made, ["style"], tmp_path)
    assert len(records) == 33
    planned = len(made.all_runs(["style"], records.values())[0])
    assert note.startswith(f"**Not finished: {planned - 33} of {planned} planned runs are to be done, and 3 stages")
    made.stages = tuple(VANILLA)
    assert grid.finished(made, ["style"], tmp_path)[1] == ""


def test_a_record_of_another_plan_is_refused(tmp_path):
    made = plan()
    run = made.runs("vanilla", "style", ())[0]
    path = tmp_path / f"{run.name}.json"
    path.parent.mkdir()
    path.write_text(json.dumps(record(run, 100)))
    made.settings["final_problems"] = 99
    with pytest.raises(SystemExit, match="other settings"):
        grid.finished(made, ["style"], tmp_path)


def test_stages_are_done_in_their_order_and_wait_for_what_they_depend_on(tmp_path, monkeypatch, capsys):
    made, done = plan(), []

    def do_runs(executor, do_run, runs, records, work, rate):
        done.append([run.name for run in runs])
        for run in runs:
            path = records / f"{run.name}.json"
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps(record(run, 100 * run.prompts_per_step)))

    monkeypatch.setattr(grid, "workers", nullcontext)
    monkeypatch.setattr(grid, "do_runs", do_runs)
    grid.do_stages(made, ["vanilla-best"], ["style"], tmp_path)
    assert done == [[]]
    assert "vanilla-best in style depends on earlier stages" in capsys.readouterr().out
    grid.do_stages(made, [*VANILLA, "vanilla-best"], ["style"], tmp_path)
    assert [len(done[1]), len(done[2])] == [30, 3]
    assert len(done[3]) == 7 * 5  # four with 8 and 16 prompts are the cheapest; one each with 32, 64 and 256


def test_a_stage_that_fails_does_not_stop_the_next(tmp_path, monkeypatch):
    tried = []

    def do_runs(executor, do_run, runs, *arguments):
        tried.append(runs[0].method)
        raise SystemExit(f"{runs[0].name} failed")

    monkeypatch.setattr(grid, "workers", nullcontext)
    monkeypatch.setattr(grid, "do_runs", do_runs)
    with pytest.raises(SystemExit, match=r"vanilla: style/\S+ failed\nreuse: style/\S+ failed"):
        grid.do_stages(plan(), ["vanilla", "reuse"], ["style"], tmp_path)
    assert tried == ["vanilla", "passes-2"]
