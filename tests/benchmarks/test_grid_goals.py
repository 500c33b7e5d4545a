"""The goals of `grid.py`: met, missed, not decided and not measured, each from made-up records."""

import pytest
from fabricated_runs import fabricate, plan, record
from grid_goals import MET, MISSED, UNDECIDED, UNMEASURED, judge_all
from grid_world import World, failed, group

# Vanilla's best cell is 1e-3 with 32 prompts, and 640 rollouts; with 16, 64 and 256 prompts 800, 1,280 and 5,120.
VANILLA_STEPS = {1e-5: 2_000, 3e-5: 500, 1e-4: 100, 3e-4: 40, 1e-3: 20, 3e-3: 60}


def outcomes(line_search=None, **of_methods):
    """Outcomes by method: functions of a run that return the arguments of `record`."""

    def vanilla(run):
        rollouts = (VANILLA_STEPS[run.learning_rate] + run.seed) * max(32, run.prompts_per_step)
        rollouts += rollouts // 4 * (run.prompts_per_step == 16)
        return {"rollouts": rollouts if rollouts <= run.limit else None}

    def good(run):
        return {"rollouts": 4 * run.prompts_per_step + run.seed}

    def reuse(run):
        return {"rollouts": 10 * run.prompts_per_step + run.seed}

    functions = {"vanilla": vanilla, "line_search": line_search or good, "passes-2": reuse, "passes-4": reuse}
    functions |= of_methods
    return lambda run: functions[run.method](run) if run.method in functions else None


def judged(outcome, world="style", **settings):
    made = plan()
    made.settings |= settings
    records = fabricate(made, outcome, worlds=[world])
    return {each.goal: each for each in judge_all(World(world, group(list(records.values()), world), made))}


def of_the_other_rates(rollouts, **others):
    """Line search as it should be at 1e-3 and 1e-5, and something else at 1e-4."""
    return lambda run: (
        {"rollouts": rollouts} | others if run.learning_rate == 1e-4 else {"rollouts": 4 * run.prompts_per_step}
    )


def test_all_goals_are_met():
    verdicts = judged(outcomes())
    assert {goal: each.outcome for goal, each in verdicts.items()} == dict.fromkeys("abcdefg", MET)
    # Seeds 0 to 4 take 640, 672, ... and 256, 257, ...: medians 704 and 258.
    assert verdicts["a"].found == "2.73 [2.50, 2.95] at 1e-5, against 1e-3 with 32 prompts"
    assert verdicts["a"].by == "82%"
    assert verdicts["e"].by == "1.00 points"


def test_nothing_is_met_without_records():
    assert {each.outcome for each in judge_all(World("style", {}, plan()))} == {UNMEASURED}


def test_four_seeds_are_not_enough():
    verdicts = judged(outcomes(lambda run: {"rollouts": 256} if run.seed < 4 else None))
    assert {goal for goal, each in verdicts.items() if each.outcome == UNMEASURED} == set("abcdefg")
    assert verdicts["a"].found == "4 of 5 seeds of line search at 1e-5 with 64 prompts"


def test_an_unfinished_grid_of_vanilla_measures_nothing_against_it():
    complete = outcomes()

    def outcome(run):
        missing = (run.method, run.learning_rate, run.prompts_per_step) == ("vanilla", 3e-3, 1024)
        return None if missing else complete(run)

    made = plan()
    records = fabricate(made, outcome)
    verdicts = {each.goal: each for each in judge_all(World("style", group(list(records.values()), "style"), made))}
    assert {goal for goal, each in verdicts.items() if each.outcome == UNMEASURED} >= set("aefg")
    assert "1 of the 33 cells of vanilla OPD have no run" in verdicts["a"].found
    assert verdicts["c"].outcome == MET


def test_the_speed_up_must_hold_at_every_rate():
    verdict = judged(outcomes(of_the_other_rates(500)))["a"]
    assert verdict.outcome == MISSED
    assert verdict.found.startswith("1.41 ")
    assert "at 1e-4" in verdict.found
    assert verdict.by == "6.1%"


def test_it_is_said_where_intervals_reach_across_what_is_needed():
    assert judged(outcomes())["a"].interval == "2.73 [2.50, 2.95]"

    def spread(run):  # at 1e-4, seeds 0 to 4 take 80 to 720, of a median of 400; vanilla takes 704 [640, 768]
        return (
            {"rollouts": 80 + 160 * run.seed} if run.learning_rate == 1e-4 else {"rollouts": 4 * run.prompts_per_step}
        )

    verdicts = judged(outcomes(spread))
    assert verdicts["a"].outcome == MET
    assert verdicts["a"].interval.startswith("1.76 [1.07, 8.")
    assert verdicts["a"].interval.endswith("]; the interval reaches across in 1 of 3 cases")
    assert (verdicts["c"].outcome, verdicts["c"].interval) == (MET, "1.56 [1.07, 3.20]; the interval reaches across")
    assert verdicts["g"].interval == "0.57 [0.12, 0.94]"  # the seeds are paired
    only = judged(outcomes(spread), world="long")
    assert only["a"].interval.endswith("; the interval reaches across")
    reached = judged(outcomes(of_the_other_rates(512)))["c"]  # exactly what is allowed
    assert (reached.outcome, reached.interval) == (MET, "2.00 [2.00, 2.00]")


def test_a_run_that_is_given_up_misses_goals():
    verdicts = judged(outcomes(of_the_other_rates(None)))
    assert {goal for goal, each in verdicts.items() if each.outcome == MISSED} == set("abcdg")
    assert verdicts["a"].found.startswith("< ")
    assert verdicts["f"].outcome == UNMEASURED  # nothing was measured at a target that was not reached
    assert verdicts["c"].found.startswith("> ")


def test_bounds_on_both_sides_of_the_goal_decide_nothing():
    # Given up after 600 rollouts: it would have taken anything more, and vanilla's best took 704.
    verdicts = judged(outcomes(of_the_other_rates(None, spent=600)))
    assert verdicts["g"].outcome == UNDECIDED
    assert verdicts["a"].outcome == MISSED  # 704 / 600 is below 1.5 already


def test_more_than_vanilla_with_as_many_prompts():
    verdicts = judged(outcomes(lambda run: {"rollouts": 1_000}))
    assert verdicts["b"].outcome == MISSED
    assert "with 32 prompts" in verdicts["b"].found
    assert verdicts["c"].outcome == MET


def test_the_worst_rate_against_the_best():
    verdict = judged(outcomes(of_the_other_rates(513)))["c"]
    assert (verdict.outcome, verdict.by) == (MISSED, "0.2%")
    assert verdict.found.startswith("2.00")
    assert judged(outcomes(of_the_other_rates(512)))["c"].outcome == MET


def test_against_reuse_neither_the_cost_nor_a_failure_is_allowed():
    cheaper = outcomes(**{"passes-4": lambda run: {"rollouts": 64}})
    assert judged(cheaper)["d"].outcome == MISSED
    fell = outcomes(lambda run: {"rollouts": 128, "fell": run.seed == 3 and run.prompts_per_step == 256})
    verdict = judged(fell)["d"]
    assert verdict.outcome == MISSED
    assert "failed: 3 of 60 runs, of reuse 0 of 48" in verdict.found


def test_the_final_accuracy_may_be_one_point_below():
    nearly = judged(outcomes(of_the_other_rates(256, final=0.9601)))["e"]
    assert (nearly.outcome, nearly.found, nearly.by) == (MET, "-0.99 points at 1e-4", "0.01 points")
    assert judged(outcomes(of_the_other_rates(256, final=0.955)))["e"].by == "0.50 points"
    diverged = judged(outcomes(of_the_other_rates(256, diverged=True)))["e"]
    assert (diverged.outcome, diverged.found) == (MISSED, "-97.00 points at 1e-4")


def test_accuracy_and_forgetting_have_intervals_over_pairs_of_seeds():
    def differs(run):  # vanilla ends at 0.97 and loses one point
        return {"rollouts": 256, "final": 0.955 + 0.005 * run.seed, "lost": 0.01 + 0.004 * (run.seed - 3)}

    verdicts = judged(outcomes(differs))
    assert (verdicts["e"].outcome, verdicts["f"].outcome) == (MET, MET)
    e = "-0.50 [-1.50, +0.50] points; the interval reaches across in 3 of 3 cases"
    assert verdicts["e"].interval == e
    assert verdicts["f"].interval.startswith("accuracy lost -0.40 [-1.20, +0.40] points, KL +0.000 [")
    assert verdicts["f"].interval.endswith("nats; an interval reaches across")
    assert "reaches" not in judged(outcomes())["f"].interval


@pytest.mark.parametrize(("harm", "outcome"), [({"lost": 0.02}, MISSED), ({"kl": 0.003}, MISSED), ({"kl": 0.001}, MET)])
def test_forgetting(harm, outcome):
    assert judged(outcomes(lambda run: {"rollouts": 256, **harm}))["f"].outcome == outcome


def test_forgetting_against_those_of_vanillas_runs_that_arrive():
    def vanilla(run):
        best = (run.learning_rate, run.prompts_per_step) == (1e-3, 32)
        return {"rollouts": None} if best and run.seed > 2 else outcomes()(run)

    verdict = judged(outcomes(lambda run: {"rollouts": 256, "lost": 0.02}, vanilla=vanilla))["f"]
    assert verdict.outcome == MISSED
    assert verdict.found.endswith("vanilla's are the 3 of 5 runs that arrived")


def test_seconds_are_compared_with_the_cell_that_takes_least_of_them():
    def vanilla(run):
        made = outcomes()(run)
        fast = (run.learning_rate, run.prompts_per_step) == (3e-4, 256)
        return made | ({"seconds": 0.5} if fast else {})

    verdict = judged(outcomes(vanilla=vanilla))["g"]
    assert verdict.outcome == MISSED
    assert verdict.found.startswith("2.06 ")  # 258 rollouts at 0.004 s against half a second


def test_where_only_the_default_cell_is_run():
    verdicts = judged(outcomes(), world="long")
    assert [goal for goal, each in verdicts.items() if each.outcome == UNMEASURED] == ["b", "c", "d"]
    assert "at 1e-4" in verdicts["a"].found
    assert verdicts["a"].outcome == MET


def test_failures():
    run = plan().run("style", "vanilla", (1e-3, 32), 0)
    assert not failed(record(run, 640))
    for each in (record(run, None), record(run, 640, fell=True), record(run, 640, diverged=True)):
        assert failed(each)


def test_a_run_that_diverged_early_is_not_the_best():
    made = plan()
    fast, arrived = made.run("style", "vanilla", (3e-3, 32), 0), made.run("style", "vanilla", (1e-3, 32), 0)
    records = [record(fast, None, spent=64, diverged=True), record(arrived, 640)]
    assert World("style", group(records, "style"), made).best_cell("vanilla") == (1e-3, 32)
