import math

import numpy as np
import pytest

from effopd.errors import DataError
from effopd.experiments.censored_statistics import (
    CensoredEstimate,
    largest_cost_ratio,
    median_cost,
    median_cost_ratio,
    median_difference,
)


def exact(*values):
    return [(value, value) for value in values]


@pytest.mark.parametrize("values", [(3.0, 1.0, 2.0), (4.0, 1.0, 2.0, 3.0), (7.0,)])
def test_without_censoring_the_median_is_the_median(values):
    estimate = median_cost(exact(*values))
    assert estimate.is_exact
    assert estimate.at_least == np.median(values)
    assert min(values) <= estimate.low <= estimate.at_least <= estimate.high <= max(values)


def test_a_minority_of_censored_runs_leaves_the_median_exact_but_not_its_upper_end():
    estimate = median_cost([*exact(10, 20, 30), (100, math.inf), (100, math.inf)])
    assert (estimate.at_least, estimate.at_most) == (30, 30)
    assert math.isinf(estimate.high)


def test_a_majority_of_censored_runs_leaves_a_lower_bound():
    estimate = median_cost([*exact(10), (100, math.inf), (100, math.inf)])
    assert (estimate.at_least, estimate.at_most) == (100, math.inf)
    assert estimate.format() == "> 100 [10, no bound]"
    assert estimate.to_json() == {"at_least": 100, "at_most": None, "low": 10, "high": None}


def test_half_censored_the_median_is_at_least_the_mean_of_the_middle_two():
    estimate = median_cost([*exact(10, 20), (100, math.inf), (100, math.inf)])
    assert (estimate.at_least, estimate.at_most) == (60, math.inf)


def test_a_run_censored_early_may_lie_on_either_side():
    estimate = median_cost([*exact(10, 20), (15, math.inf)])
    assert (estimate.at_least, estimate.at_most) == (15, 20)
    assert estimate.format(interval=False) == "15 to 20"


def test_ratio_without_censoring():
    estimate = median_cost_ratio(exact(80, 100, 120), exact(20, 25, 30))
    assert estimate.at_least == estimate.at_most == 4.0
    assert (estimate.low, estimate.high) == (4.0, 4.0)  # every seed says the same, however much seeds differ


def test_ratio_of_runs_that_have_nothing_in_common():
    estimate = median_cost_ratio(exact(80, 100, 120), exact(30, 25, 20))
    assert (estimate.low, estimate.at_least, estimate.high) == (80 / 30, 4.0, 120 / 20)


def test_spread_chooses_its_groups_in_each_resample():
    groups = [exact(10, 20, 30), exact(12, 12, 12), exact(20, 20, 20)]
    estimate = largest_cost_ratio(groups, groups)
    assert estimate.at_least == estimate.at_most == 20 / 12
    assert (estimate.low, estimate.high) == (20 / 12, 30 / 12)  # never 20 / 20, nor 12 / 12


def test_ratios_of_runs_that_are_not_paired_are_refused():
    with pytest.raises(DataError, match=r"groups of \[1, 2\] runs"):
        median_cost_ratio(exact(1, 2), exact(1))
    with pytest.raises(DataError, match="no runs"):
        median_cost_ratio([], [])


@pytest.mark.parametrize(
    ("numerator", "denominator", "bounds"),
    [
        ([(100, math.inf)], [(20, 20)], (5, math.inf)),
        ([(20, 20)], [(100, math.inf)], (0, 0.2)),
        ([(100, math.inf)], [(100, math.inf)], (0, math.inf)),
    ],
)
def test_ratios_of_censored_groups_are_bounds(numerator, denominator, bounds):
    estimate = median_cost_ratio(numerator, denominator)
    assert (estimate.at_least, estimate.at_most) == bounds
    assert (estimate.low, estimate.high) == bounds


def test_formats():
    assert CensoredEstimate(8192, 8192, 7936, 8448).format() == "8,192 [7,936, 8,448]"
    assert CensoredEstimate(0, 0.2, 0, 0.25).format(".2f") == "< 0.20 [0.00, 0.25]"
    assert CensoredEstimate(0, math.inf, 0, math.inf).format(".2f") == "? [0.00, no bound]"


def test_the_bootstrap_is_seeded():
    values = exact(*np.random.default_rng(0).normal(100, 10, size=20))
    assert median_cost(values) == median_cost(values)


def test_the_interval_covers_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(300):
        estimate = median_cost(exact(*rng.normal(100, 10, size=25)), num_resamples=500, seed=trial)
        covered += estimate.low <= 100 <= estimate.high
    assert 0.90 <= covered / 300 <= 0.99


def test_no_runs_are_refused():
    with pytest.raises(DataError, match="no runs"):
        median_cost([])


def test_a_difference_of_medians_resamples_pairs():
    paired = median_difference([3.0, 5.0, 10.0], [1.0, 3.0, 8.0])
    assert (paired.low, paired.at_least, paired.at_most, paired.high) == (2.0, 2.0, 2.0, 2.0)  # as in every pair
    other = median_difference([1.0, 2.0, 4.0], [4.0, 2.0, 1.0])
    assert (other.low, other.at_least, other.high) == (-3.0, 0.0, 3.0)
    with pytest.raises(DataError, match="groups of 1 and 2 runs"):
        median_difference([1.0], [1.0, 2.0])
    with pytest.raises(DataError, match="no runs"):
        median_difference([], [])
