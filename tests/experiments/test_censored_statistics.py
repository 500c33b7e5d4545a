import math

import numpy as np
import pytest

from effopd.errors import DataError
from effopd.experiments.censored_statistics import (
    QUANTITIES,
    Estimate,
    cost_range,
    median_estimate,
    ratio_estimate,
    spread_estimate,
    to_target,
)


def make_rows(accuracies, scales=None):
    """Rows of a run of 100 rollouts per step; validation costs 10 at each trigger."""
    scales = scales or [None] * len(accuracies)
    rows = []
    for step, (accuracy, scale) in enumerate(zip(accuracies, scales, strict=True), start=1):
        validation = 10 * sum(value is not None for value in scales[:step])
        rows.append(
            {
                "step": step,
                "accuracy": accuracy,
                "accepted_scale": scale,
                "rollouts": 100 * step + validation,
                "validation_rollouts": validation,
                "generated_tokens": 1000 * step,
                "teacher_tokens": 900 * step,
                "seconds_total": 0.5 * step,
            }
        )
    return rows


def exact(*values):
    return [(value, value) for value in values]


def test_the_first_row_that_reaches_the_target_counts():
    rows = make_rows([0.5, None, 0.96, 0.9, 0.97], scales=[2.0, 0.0, None, 4.0, None])
    assert to_target(rows, 0.95) == {
        "steps_to_target": 3,
        "rollouts_to_target": 320,
        "generated_tokens_to_target": 3000,
        "teacher_tokens_to_target": 2700,
        "seconds_to_target": 1.5,
        "validation_rollouts": 20,
        "num_accepted": 1,  # neither the rejection at step 2 nor what came after the target
        "final_accuracy": 0.97,
        "spent": {
            "steps_to_target": 5,
            "rollouts_to_target": 530,
            "generated_tokens_to_target": 5000,
            "teacher_tokens_to_target": 4500,
            "seconds_to_target": 2.5,
        },
    }


def test_an_accuracy_equal_to_the_target_reaches_it():
    assert to_target(make_rows([0.95]), 0.95)["steps_to_target"] == 1


def test_a_run_that_never_gets_there_has_no_cost_but_what_it_spent():
    result = to_target(make_rows([0.5, 0.6, None], scales=[2.0, 4.0, None]), 0.95)
    assert all(result[quantity] is None for quantity in QUANTITIES)
    assert result["validation_rollouts"] == 20
    assert result["num_accepted"] == 2
    assert result["final_accuracy"] == 0.6
    assert cost_range(result, "rollouts_to_target") == (320, math.inf)


def test_without_an_evaluation_there_is_no_final_accuracy():
    assert to_target(make_rows([None]), 0.5)["final_accuracy"] is None


def test_no_rows_are_refused():
    with pytest.raises(DataError, match="no rows"):
        to_target([], 0.95)


def test_the_cost_of_a_run_that_got_there_is_exact():
    assert cost_range(to_target(make_rows([0.99]), 0.95), "steps_to_target") == (1, 1)


@pytest.mark.parametrize("values", [(3.0, 1.0, 2.0), (4.0, 1.0, 2.0, 3.0), (7.0,)])
def test_without_censoring_the_median_is_the_median(values):
    estimate = median_estimate(exact(*values))
    assert estimate.is_exact
    assert estimate.at_least == np.median(values)
    assert min(values) <= estimate.low <= estimate.at_least <= estimate.high <= max(values)


def test_a_minority_of_censored_runs_leaves_the_median_exact_but_not_its_upper_end():
    estimate = median_estimate([*exact(10, 20, 30), (100, math.inf), (100, math.inf)])
    assert (estimate.at_least, estimate.at_most) == (30, 30)
    assert math.isinf(estimate.high)


def test_a_majority_of_censored_runs_leaves_a_lower_bound():
    estimate = median_estimate([*exact(10), (100, math.inf), (100, math.inf)])
    assert (estimate.at_least, estimate.at_most) == (100, math.inf)
    assert estimate.format() == "> 100 [10, no bound]"
    assert estimate.to_json() == {"at_least": 100, "at_most": None, "low": 10, "high": None}


def test_half_censored_the_median_is_at_least_the_mean_of_the_middle_two():
    estimate = median_estimate([*exact(10, 20), (100, math.inf), (100, math.inf)])
    assert (estimate.at_least, estimate.at_most) == (60, math.inf)


def test_a_run_censored_early_may_lie_on_either_side():
    estimate = median_estimate([*exact(10, 20), (15, math.inf)])
    assert (estimate.at_least, estimate.at_most) == (15, 20)
    assert estimate.format(interval=False) == "15 to 20"


def test_ratio_without_censoring():
    estimate = ratio_estimate(exact(80, 100, 120), exact(20, 25, 30))
    assert estimate.at_least == estimate.at_most == 4.0
    assert (estimate.low, estimate.high) == (4.0, 4.0)  # every seed says the same, however much seeds differ


def test_ratio_of_runs_that_have_nothing_in_common():
    estimate = ratio_estimate(exact(80, 100, 120), exact(30, 25, 20))
    assert (estimate.low, estimate.at_least, estimate.high) == (80 / 30, 4.0, 120 / 20)


def test_spread_chooses_its_groups_in_each_resample():
    groups = [exact(10, 20, 30), exact(12, 12, 12), exact(20, 20, 20)]
    estimate = spread_estimate(groups, groups)
    assert estimate.at_least == estimate.at_most == 20 / 12
    assert (estimate.low, estimate.high) == (20 / 12, 30 / 12)  # never 20 / 20, nor 12 / 12


def test_ratios_of_runs_that_are_not_paired_are_refused():
    with pytest.raises(DataError, match=r"groups of \[1, 2\] runs"):
        ratio_estimate(exact(1, 2), exact(1))
    with pytest.raises(DataError, match="no runs"):
        ratio_estimate([], [])


@pytest.mark.parametrize(
    ("numerator", "denominator", "bounds"),
    [
        ([(100, math.inf)], [(20, 20)], (5, math.inf)),
        ([(20, 20)], [(100, math.inf)], (0, 0.2)),
        ([(100, math.inf)], [(100, math.inf)], (0, math.inf)),
    ],
)
def test_ratios_of_censored_groups_are_bounds(numerator, denominator, bounds):
    estimate = ratio_estimate(numerator, denominator)
    assert (estimate.at_least, estimate.at_most) == bounds
    assert (estimate.low, estimate.high) == bounds


def test_formats():
    assert Estimate(8192, 8192, 7936, 8448).format() == "8,192 [7,936, 8,448]"
    assert Estimate(0, 0.2, 0, 0.25).format(".2f") == "< 0.20 [0.00, 0.25]"
    assert Estimate(0, math.inf, 0, math.inf).format(".2f") == "? [0.00, no bound]"


def test_the_bootstrap_is_seeded():
    values = exact(*np.random.default_rng(0).normal(100, 10, size=20))
    assert median_estimate(values) == median_estimate(values)


def test_the_interval_covers_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(300):
        estimate = median_estimate(exact(*rng.normal(100, 10, size=25)), num_resamples=500, seed=trial)
        covered += estimate.low <= 100 <= estimate.high
    assert 0.90 <= covered / 300 <= 0.99


def test_no_runs_are_refused():
    with pytest.raises(DataError, match="no runs"):
        median_estimate([])
