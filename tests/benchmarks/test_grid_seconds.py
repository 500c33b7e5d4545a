"""From which share of sampling on the method also saves time: by hand, and by simulated times that come out equal."""

import pytest
from fabricated_runs import plan, record
from grid_seconds import break_even, break_evens, sampling_share, training_cost
from grid_world import World, group

SECONDS = {"generation": 30.0, "teacher": 10.0, "update": 55.0, "validation": 5.0}


def runs(method, cell, rollouts, cpu_seconds, seconds=SECONDS):
    """Three seeds of a cell, of which the second costs what is given."""
    made = [record(plan().run("style", method, cell, seed), rollouts + 64 * (seed - 1)) for seed in range(3)]
    return [
        each | {"cpu_seconds_to_target": cpu_seconds + seed, "seconds": seconds} for seed, each in enumerate(made, -1)
    ]


def world(*groups):
    return World("style", group([run for each in groups for run in each], "style"), plan())


def test_phases_and_costs_of_one_run():
    run = runs("vanilla", (1e-4, 64), 640, 10.0)[1]
    assert sampling_share(run) == pytest.approx(0.4)
    assert training_cost(run) == pytest.approx(0.6 * 10 / 640)
    given_up = run | {"steps_to_target": None, "cpu_seconds_to_target": None}
    given_up["spent"] = {"cpu_seconds_to_target": 40.0, "rollouts_to_target": 1280}
    assert training_cost(given_up) == pytest.approx(0.6 * 40 / 1280)


@pytest.mark.parametrize("booked", [{"teacher": 10.0, "validation": 85.0}, {"teacher": 0.0, "validation": 95.0}])
def test_at_the_share_that_is_needed_both_take_as_long(booked):
    """Also if the teacher's seconds were booked as validation, as those of line searches once were."""
    best, plain = runs("vanilla", (1e-3, 16), 1600, 9.0), runs("vanilla", (1e-4, 64), 6400, 32.0)
    ours = runs("line_search", (1e-4, 64), 640, 16.0, SECONDS | {"update": 75.0} | booked)
    found = break_even(world(best, plain, ours), ours, best)
    factor = (16 * 0.8 / 640) / (32 * 0.6 / 6400)
    assert found["training_factor"] == pytest.approx(factor)
    assert found["here"] == pytest.approx(0.4)
    ratio = found["needed"] / (1 - found["needed"])  # of sampling to training, in plain distillation
    assert 640 * (ratio + factor) == pytest.approx(1600 * (ratio + 1))
    assert 0.5 < found["needed"] < 1


def test_a_method_that_trains_no_longer_saves_time_everywhere():
    best, ours = runs("vanilla", (1e-4, 64), 1600, 9.0), runs("line_search", (1e-4, 64), 640, 2.0)
    assert break_even(world(best, ours), ours, best)["needed"] == 0


@pytest.mark.parametrize("rollouts", [640, 1600])
def test_without_fewer_completions_there_is_no_such_share(rollouts):
    best, ours = runs("vanilla", (1e-4, 64), 640, 9.0), runs("line_search", (1e-4, 64), rollouts, 9.0)
    assert break_even(world(best, ours), ours, best) is None


def test_without_plain_distillation_with_as_many_prompts_it_is_not_known():
    best, ours = runs("vanilla", (1e-3, 16), 1600, 9.0), runs("line_search", (1e-4, 64), 640, 9.0)
    assert break_even(world(best, ours), ours, best) is None
    given_up = [run | {"rollouts_to_target": None} for run in best]
    plain = runs("vanilla", (1e-4, 64), 6400, 32.0)
    assert break_even(world(given_up, plain, ours), ours, given_up) is None


def test_the_rows_of_the_page_are_those_that_were_measured():
    assert list(break_evens(world(runs("line_search", (1e-4, 64), 640, 9.0)))) == []  # the grid of vanilla is missing
    chosen = plan()
    many = {cell: 640 * cell[1] // 16 for cell in chosen.grid("vanilla", "style")}
    vanilla = [
        record(chosen.run("style", "vanilla", cell, seed), rollouts)
        for cell, rollouts in many.items()
        for seed in range(5)
    ]
    found = list(break_evens(world(vanilla, runs("line_search", (1e-4, 64), 320, 9.0))))
    assert [row["prompts_per_step"] for row in found] == [64]  # the best cell has 8 prompts, and takes as many
    assert found[0]["rate"] == 1e-4
