"""The numbers of benchmarks/validation_power.py against enumeration, scipy, simulation and EffOPD's own search."""

import itertools
import json
import math
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from effopd.extrapolation.search import PAPER_SCALES, Score, search

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
sys.path.append(str(ROOT / "benchmarks"))  # as if the script had been started

import validation_power as power  # noqa: E402
from validation_power_report import markdown  # noqa: E402


def accepted_scale(scores, rule):
    """What EffOPD itself does with a score of W_t and one for each candidate."""
    by_scale = dict(zip([0.0, *PAPER_SCALES], scores, strict=True))
    return search(lambda scale: Score(float(by_scale[scale])), PAPER_SCALES, rule).accepted_scale


def test_a_comparison_is_right_by_enumeration():
    losses, wins, number = 0.3, 0.2, 4
    chance = {-1: losses, 0: 1 - losses - wins, 1: wins}
    expected = dict.fromkeys(("paper", "reference", "tie"), 0.0)
    for steps in itertools.product(chance, repeat=number):
        probability = math.prod(chance[step] for step in steps)
        expected["paper"] += probability * (sum(steps) >= 0)
        expected["reference"] += probability * (sum(steps) > 0)
        expected["tie"] += probability * (sum(steps) == 0)
    assert power.compare(np.asarray(losses), np.asarray(wins), number) == pytest.approx(expected)


@pytest.mark.parametrize("number", power.MORE_PROMPTS)
@pytest.mark.parametrize(("baseline", "candidate"), [(0.2, 0.15), (0.5, 0.5), (0.95, 0.97), (0.99, 0.94), (0.95, 1.0)])
def test_a_comparison_of_binomials_is_that_of_scipy(baseline, candidate, number):
    scores = np.arange(number + 1)
    one, other = (stats.binom(number, accuracy) for accuracy in (baseline, candidate))
    found = power.compare_binomials(baseline, candidate, number)
    tie = (one.pmf(scores) * other.pmf(scores)).sum()
    assert found["tie"] == pytest.approx(tie, abs=1e-12)
    assert found["reference"] == pytest.approx((one.pmf(scores) * other.sf(scores)).sum(), abs=1e-12)
    assert found["paper"] == pytest.approx(found["reference"] + tie, abs=1e-12)


def test_the_three_outcomes_of_a_comparison_sum_to_one():
    losses, wins = np.array([0.3, 0.05, 0.0]), np.array([0.2, 0.1, 0.4])
    worse = power.compare(wins, losses, 50)["reference"]
    np.testing.assert_allclose(worse + power.compare(losses, wins, 50)["paper"], 1, atol=1e-12)


def test_prompts_that_differ_by_an_explicit_mixture():
    """Half of the prompts are easy, for both: chances 0.9 and 0.4, shifted by 0.1 for the candidate."""
    baseline, candidate = np.array([0.9, 0.4]), np.array([0.8, 0.3])
    share = baseline.var() / (baseline.mean() * (1 - baseline.mean()))
    other_share = candidate.var() / (candidate.mean() * (1 - candidate.mean()))
    found = power.compare_binomials(baseline.mean(), candidate.mean(), 50, np.sqrt(share * other_share))
    losses, wins = (baseline * (1 - candidate)).mean(), (candidate * (1 - baseline)).mean()
    for name, expected in power.compare(losses, wins, 50).items():
        assert found[name] == pytest.approx(expected)


def test_prompts_that_are_always_right_or_always_wrong_always_tie():
    assert power.compare_binomials(0.8, 0.8, 50, 1.0) == pytest.approx({"paper": 1, "reference": 0, "tie": 1})
    with pytest.raises(ValueError, match="cannot have"):
        power.compare_binomials(0.95, 0.9, 50, 0.9)


@pytest.mark.parametrize("rule", power.RULES)
def test_a_trigger_is_right_by_enumeration(rule):
    baseline, candidates, number = 0.6, (0.6, 0.7, 0.5, 0.9, 0.3), 2
    pmfs = [stats.binom.pmf(range(number + 1), number, accuracy) for accuracy in (baseline, *candidates)]
    expected = Counter()
    for scores in itertools.product(range(number + 1), repeat=len(pmfs)):
        probability = math.prod(pmf[score] for pmf, score in zip(pmfs, scores, strict=True))
        expected[accepted_scale(scores, rule)] += probability
    found = power.search_outcomes(baseline, candidates, number, rule)
    assert found == pytest.approx([expected[scale] for scale in (0.0, *PAPER_SCALES)])


@pytest.mark.parametrize("rule", power.RULES)
def test_a_trigger_on_50_prompts_by_simulation(rule):
    rng, trials = np.random.default_rng(0), 20_000
    scores = np.stack([rng.binomial(50, accuracy, trials) for accuracy in (0.9, *[0.88] * 5)], axis=1)
    counts = Counter(accepted_scale(row, rule) for row in scores)
    found = power.search_outcomes(0.9, [0.88] * 5, 50, rule)
    for scale, probability in zip([0.0, *PAPER_SCALES], found, strict=True):
        error = math.sqrt(probability * (1 - probability) / trials)
        assert abs(counts[scale] / trials - probability) < 4.5 * error + 1 / trials


@pytest.mark.parametrize("rule", power.RULES)
def test_the_first_candidate_of_a_trigger_is_a_single_comparison(rule):
    outcomes = power.search_outcomes(0.95, [0.9] * 5, 50, rule)
    assert sum(outcomes) == pytest.approx(1)
    assert 1 - outcomes[0] == pytest.approx(power.compare_binomials(0.95, 0.9, 50)[rule])


def test_losses_and_wins_by_counting():
    rng = np.random.default_rng(0)
    baseline, candidate = rng.random((2, 3, 4)) < 0.6
    found = power.losses_and_wins(baseline, candidate)
    for problem in range(3):
        pairs = [(i, j, baseline[problem, i], candidate[problem, j]) for i in range(4) for j in range(4)]
        for kind, kept in (
            ("shared", [p for p in pairs if p[0] == p[1]]),
            ("independent", [p for p in pairs if p[0] != p[1]]),
        ):
            losses = np.mean([one and not other for _, _, one, other in kept])
            wins = np.mean([other and not one for _, _, one, other in kept])
            np.testing.assert_allclose(found[kind][problem], [losses, wins])


def test_a_measured_pair_is_the_average_over_all_draws_of_prompts(monkeypatch):
    monkeypatch.setattr(power, "NUM_PROMPTS", 2)
    rng = np.random.default_rng(1)
    baseline, candidate = rng.random((2, 3, 8)) < 0.6
    found = power.measured_pair(baseline, candidate)
    for kind, shares in power.losses_and_wins(baseline, candidate).items():
        steps = np.column_stack([shares[:, 0], 1 - shares.sum(axis=1), shares[:, 1]])
        sums = np.mean([np.convolve(steps[i], steps[j]) for i in range(3) for j in range(3)], axis=0)
        assert found[kind]["paper"]["estimate"] == pytest.approx(sums[2:].sum())
        assert found[kind]["reference"]["estimate"] == pytest.approx(sums[3:].sum())
        assert found[kind]["tie"]["estimate"] == pytest.approx(sums[2])


def test_problems_of_equal_difficulty_give_the_binomial_within_the_standard_error():
    rng = np.random.default_rng(0)
    baseline, candidate = rng.random((400, 20)) < 0.9, rng.random((400, 20)) < 0.85
    found = power.measured_pair(baseline, candidate)
    expected = power.compare_binomials(0.9, 0.85, 50)
    for kind in ("independent", "shared", "binomial"):  # nothing is shared by these random numbers
        for rule in power.RULES:
            value = found[kind][rule]
            assert abs(value["estimate"] - expected[rule]) < 4 * value["standard_error"]
    for value in (found["variance_given_prompts"], found["independent"]["variance"]):
        assert abs(value["estimate"] - 1) < 4 * value["standard_error"]
    assert found["accuracy"]["estimate"] == pytest.approx(baseline.mean())
    assert found["difference"]["estimate"] == pytest.approx(candidate.mean() - baseline.mean())


def test_problems_that_differ_are_less_noisy_than_the_binomial():
    rng = np.random.default_rng(0)
    chances = rng.choice([1.0, 0.5], size=(400, 1))
    rewards = rng.random((400, 20)) < chances
    found = power.measured_pair(rewards, rewards)
    expected = (chances * (1 - chances)).mean() / (chances.mean() * (1 - chances.mean()))
    assert found["variance_given_prompts"]["estimate"] == pytest.approx(expected, abs=0.02)
    assert found["independent"]["variance"] == pytest.approx(found["variance_given_prompts"])
    assert found["shared"]["tie"]["estimate"] == pytest.approx(1)


def test_sampled_answers_share_their_random_numbers_between_weights():
    first, again, other = power.sampled_rewards([0.3, 0.3, 1.5], num_problems=30, num_samples=2)
    assert first.shape == (30, 2)
    assert (first == again).all()
    assert not (first == other).all()
    assert not (first[:, 0] == first[:, 1]).all()


def test_the_committed_results_are_what_the_code_gives():
    record = json.loads((RESULTS / "validation_power.json").read_text())
    exact = power.exact()
    assert record["exact"].keys() == exact.keys()
    assert record["exact"]["scales"] == exact["scales"]
    for name in ("comparisons", "triggers", "unequal_prompts"):
        for row, expected in zip(record["exact"][name], exact[name], strict=True):
            assert row.keys() == expected.keys()
            for key, value in expected.items():
                assert row[key] == pytest.approx(value, abs=1e-12)
    assert (RESULTS / "validation_power.md").read_text() == markdown(record)


def test_the_tables_of_the_page_are_those_of_the_results():
    rows = [line for line in (ROOT / "docs" / "validation_power.md").read_text().splitlines() if line.startswith("|")]
    assert len(rows) > 20
    assert set(rows) <= set((RESULTS / "validation_power.md").read_text().splitlines())
