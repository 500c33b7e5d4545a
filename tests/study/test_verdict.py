"""Intervals, p-values, Holm's procedure and verdicts, against hand-computed cases and scipy."""

import math

import numpy as np
import pytest
from scipy import stats

from effopd.study.claims.claim import Bound, Claim
from effopd.study.verdict import compare_world, compare_worlds, held_back, holm, overall


def claim(direction: str = "above", threshold: float = 0.0, is_ratio: bool = False) -> Claim:
    texts = ("name", "theme", "statement", "source", "statistic")
    return Claim(*texts, threshold, direction, (), lambda records, seed: 0.0, is_ratio)  # type: ignore[arg-type]


def test_one_world_is_a_t_test() -> None:
    values = [1.0, 2.0, 3.0]
    found = compare_world(claim(threshold=0.5), values)
    assert found.estimate == 2.0
    half = 4.302652729911275 / math.sqrt(3)  # t(0.975, 2) times 1 / sqrt(3)
    assert (found.low, found.high) == (pytest.approx(2 - half), pytest.approx(2 + half))
    assert found.p == pytest.approx(stats.ttest_1samp(values, 0.5).pvalue)
    assert found.p_for is not None and found.p_for == pytest.approx(
        stats.ttest_1samp(values, 0.5, alternative="greater").pvalue
    )


def test_two_worlds_are_welch() -> None:
    """The mean of two means is half their sum, and that is a difference from the negated second."""
    one, other = [1.0, 2.0, 3.0], [2.0, 4.0, 6.0, 9.0]
    found = compare_worlds(claim(), {"a": one, "b": other})
    reference = stats.ttest_ind(one, -np.array(other), equal_var=False)
    assert found.estimate == pytest.approx((2 + 5.25) / 2)
    assert found.p == pytest.approx(reference.pvalue)
    interval = reference.confidence_interval()
    assert (found.low, found.high) == (pytest.approx(interval.low / 2), pytest.approx(interval.high / 2))


def test_each_direction_by_its_interval() -> None:
    tight, wide = [0.9, 1.0, 1.1], [-9.0, 1.0, 11.0]

    def verdict(values: list[float], direction: str, threshold: float) -> str:
        found = compare_world(claim(direction, threshold), values)
        return found.verdict(found.p)

    # The interval of the tight values is 1 +- 0.248.
    assert [verdict(tight, "above", x) for x in (0.7, 0.8, 1.2, 1.3)] == [
        "supported",
        "undecided",
        "undecided",
        "contradicted",
    ]
    assert [verdict(tight, "below", x) for x in (0.7, 0.8, 1.2, 1.3)] == [
        "contradicted",
        "undecided",
        "undecided",
        "supported",
    ]
    assert [verdict(tight, "within", x) for x in (0.7, 0.8, 1.2, 1.3)] == [
        "contradicted",
        "undecided",
        "undecided",
        "supported",
    ]
    negative = [-each for each in tight]
    assert [verdict(negative, "within", x) for x in (0.7, 0.8, 1.2, 1.3)] == [
        "contradicted",
        "undecided",
        "undecided",
        "supported",
    ]
    assert {verdict(wide, direction, 2.0) for direction in ("above", "below", "within")} == {"undecided"}


def test_ratios_are_averaged_as_logarithms() -> None:
    found = compare_world(claim(threshold=1.0, is_ratio=True), [2.0, 8.0])
    assert found.estimate == pytest.approx(4.0)
    reference = stats.ttest_1samp(np.log([2.0, 8.0]), 0.0)
    assert found.p == pytest.approx(reference.pvalue)
    assert found.low == pytest.approx(math.exp(reference.confidence_interval().low))


@pytest.mark.parametrize("values", [[1.0], [1.0, 1.0, 1.0], [0.1 + 0.2, 0.3]])
def test_one_value_or_equal_values_decide_nothing(values: list[float]) -> None:
    found = compare_world(claim(), values)
    assert found.estimate == pytest.approx(values[0])
    assert (found.low, found.high, found.p, found.verdict(found.p)) == (None, None, None, "undecided")
    assert compare_worlds(claim(), {"a": [1.0, 2.0], "b": [1.0]}).p is None


def test_holm_by_hand() -> None:
    found = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    # In order: 4 x 0.005, 3 x 0.01, 2 x 0.03, then 1 x 0.04, which may not fall below the one before.
    assert found == pytest.approx({"d": 0.02, "a": 0.03, "c": 0.06, "b": 0.06})
    assert holm({"a": 0.6, "b": 0.7}) == {"a": 1.0, "b": 1.0}
    assert holm({}) == {}


def test_holm_rejects_what_its_definition_rejects() -> None:
    """Step down: the i-th smallest p-value is rejected if it and all smaller ones are below 0.05 / (n - i)."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        values = {str(index): float(p) for index, p in enumerate(rng.uniform(0, 0.05, 6))}
        rejected = set()
        for rank, (name, p) in enumerate(sorted(values.items(), key=lambda item: item[1])):
            if p > 0.05 / (len(values) - rank):
                break
            rejected.add(name)
        assert {name for name, p in holm(values).items() if p <= 0.05} == rejected


def test_worlds_that_disagree_leave_it_open() -> None:
    found = compare_world(claim(), [0.9, 1.0, 1.1])
    assert overall(found, 0.001, ["supported", "undecided"]) == "supported"
    assert overall(found, 0.001, ["supported", "contradicted"]) == "undecided"
    assert overall(found, 0.06, ["supported"]) == "undecided"
    against = compare_world(claim(), [-0.9, -1.0, -1.1])
    assert overall(against, 0.001, ["contradicted"]) == "contradicted"
    assert overall(against, 0.001, ["supported"]) == "undecided"


def test_the_level_is_kept_where_the_claim_is_at_its_threshold() -> None:
    rng = np.random.default_rng(1)
    decided = [compare_world(claim(), list(rng.normal(0, 1, 5))).p for _ in range(2000)]
    assert 0.035 < np.mean([p is not None and p < 0.05 for p in decided]) < 0.065


def test_a_world_whose_seeds_all_agree_leaves_the_whole_without_an_interval() -> None:
    values = {"a": [2.0] * 5, "b": [0.1, 0.2, 0.15, 0.12, 0.18]}
    found = compare_worlds(claim(), values)
    assert (found.low, found.high, found.p) == (None, None, None)
    assert found.estimate == pytest.approx((2 + 0.15) / 2)


@pytest.mark.parametrize(
    ("direction", "is_lower", "kept"),
    [
        ("above", True, "supported"),
        ("above", False, "contradicted"),
        ("below", True, "contradicted"),
        ("below", False, "supported"),
        ("within", True, None),
        ("within", False, None),
    ],
)
def test_bounds_hold_back_the_verdict_of_their_other_side(direction: str, is_lower: bool, kept: str | None) -> None:
    values = [1.0, Bound(2.0, is_lower, "it was stopped")]
    for verdict in ("supported", "contradicted"):
        expected = verdict if verdict == kept else "undecided"
        assert held_back(verdict, claim(direction), values) == expected
        assert held_back(verdict, claim(direction), [1.0, 2.0]) == verdict
    assert held_back("not measured", claim(direction), values) == "not measured"
