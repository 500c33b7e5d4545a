"""avg@n, pass@k and their uncertainty, against brute force and simulation."""

import itertools
import math

import numpy as np
import pytest

from effopd.errors import ConfigurationError, DataError
from effopd.evaluation import Evaluation, ExampleRecord
from effopd.evaluation.results import summarize
from effopd.evaluation.statistics import estimate_mean, estimate_ratio, pass_at_k


def evaluation_of(passed: list[list[bool]], kl: list[list[float]] | None = None) -> Evaluation:
    return Evaluation(
        [
            ExampleRecord(
                prompt, sample, "", each, "", 10 + sample, sample == 1, None if kl is None else kl[prompt][sample]
            )
            for prompt, row in enumerate(passed)
            for sample, each in enumerate(row)
        ]
    )


@pytest.mark.parametrize(("n", "c"), [(1, 0), (1, 1), (5, 0), (5, 2), (5, 5), (8, 7)])
def test_pass_at_k_is_the_share_of_subsets_with_a_passed_sample(n: int, c: int) -> None:
    samples = [True] * c + [False] * (n - c)
    for k in range(1, n + 1):
        subsets = list(itertools.combinations(samples, k))
        assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))


def test_pass_at_k_does_not_overflow_and_equals_the_binomials() -> None:
    exact = 1 - math.comb(9990, 5000) / math.comb(10_000, 5000)
    assert pass_at_k(10_000, 10, 5000) == pytest.approx(exact, rel=1e-12)


@pytest.mark.parametrize(("n", "c", "k"), [(4, 5, 1), (4, -1, 1), (4, 2, 0), (4, 2, 5)])
def test_pass_at_k_refuses_numbers_out_of_range(n: int, c: int, k: int) -> None:
    with pytest.raises(ConfigurationError, match=f"k = {k} for {n} samples"):
        pass_at_k(n, c, k)


def test_averages_of_an_evaluation() -> None:
    passed = [[True, True, False], [False, False, False], [True, False, False], [True, True, True]]
    evaluation = evaluation_of(passed)
    shares = [2 / 3, 0, 1 / 3, 1]
    assert evaluation.num_samples == 3
    assert evaluation.mean == pytest.approx(0.5)
    assert evaluation.standard_error == pytest.approx(np.std(shares, ddof=1) / 2)
    assert evaluation.pass_at(1) == pytest.approx(evaluation.mean)
    assert evaluation.pass_at(3) == 0.75
    low, high = evaluation.interval
    assert 0 <= low < 0.5 < high <= 1
    assert evaluation.num_tokens == 11
    assert evaluation.truncation_rate == pytest.approx(1 / 3)
    assert evaluation.kl_per_token is evaluation.kl_per_sequence is evaluation.kl_per_token_standard_error is None
    assert list(summarize(evaluation)["pass_at"]) == ["1", "2", "3"]


def test_kl_per_token_is_a_ratio_of_totals_and_per_sequence_a_mean() -> None:
    evaluation = evaluation_of([[True, False], [True, False]], kl=[[1.0, 2.0], [3.0, 6.0]])
    assert evaluation.kl_per_token == pytest.approx(12 / 42)
    assert evaluation.kl_per_sequence == pytest.approx(3.0)
    assert evaluation.kl_per_sequence_standard_error == pytest.approx(np.std([1.5, 4.5], ddof=1) / math.sqrt(2))
    assert summarize(evaluation)["kl_per_token_standard_error"] == evaluation.kl_per_token_standard_error


def test_a_single_problem_has_no_standard_error() -> None:
    evaluation = evaluation_of([[True, False]], kl=[[1.0, 2.0]])
    assert math.isnan(evaluation.standard_error)
    assert evaluation.interval == (0.5, 0.5)
    summary = summarize(evaluation)
    assert summary["standard_error"] is None
    assert summary["kl_per_token_standard_error"] is None


def test_different_numbers_of_samples_are_refused() -> None:
    with pytest.raises(DataError, match=r"Got \[1, 2\] samples"):
        _ = evaluation_of([[True, False], [True]]).mean


def test_nothing_to_average() -> None:
    with pytest.raises(DataError, match="no problems"):
        estimate_mean([])
    with pytest.raises(DataError, match="divide"):
        estimate_ratio([1.0], [0.0])


def test_a_ratio_over_equal_denominators_is_a_mean_with_its_standard_error() -> None:
    values = [0.1, 0.7, 0.4]
    mean = estimate_mean(values)
    assert estimate_ratio(values, [1.0] * 3) == pytest.approx((mean.value, mean.standard_error))


def test_the_interval_is_that_of_resampling_problems_one_by_one() -> None:
    values = [0.0, 0.25, 0.25, 0.5, 1.0, 1.0, 0.75]
    estimate = estimate_mean(values, num_resamples=20_000)
    rng = np.random.default_rng(1)
    plain = rng.choice(values, size=(20_000, len(values))).mean(axis=1)
    assert estimate.interval == pytest.approx(np.quantile(plain, [0.025, 0.975]), abs=0.25 / len(values))
    assert estimate == estimate_mean(values, num_resamples=20_000)


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    """Problems of different difficulty, four samples each; avg@4 of 60 problems against the mean difficulty."""
    rng = np.random.default_rng(0)
    covered = standardized = 0
    for _ in range(400):
        passed = rng.binomial(4, rng.beta(1, 1, size=60)) / 4
        estimate = estimate_mean(passed.tolist(), num_resamples=1000)
        covered += estimate.interval[0] <= 0.5 <= estimate.interval[1]
        standardized += abs(estimate.value - 0.5) <= 1.96 * estimate.standard_error
    assert 0.91 <= covered / 400 <= 0.98
    assert 0.91 <= standardized / 400 <= 0.98


def test_the_standard_error_of_a_ratio() -> None:
    rng = np.random.default_rng(0)
    tokens = rng.integers(5, 50, size=(300, 80))
    kl = rng.gamma(2.0, 0.1, size=(300, 80)) * tokens
    found = [estimate_ratio(top, bottom) for top, bottom in zip(kl, tokens, strict=True)]
    assert np.mean([error for _, error in found]) == pytest.approx(np.std([ratio for ratio, _ in found]), rel=0.15)
