"""The rule of the line search: where it goes, and when it stops."""

import math
from collections.abc import Callable

import pytest

from effopd.extrapolation import PRESETS, SearchResult, line_search
from effopd.extrapolation.line_search import TAKEN_BACK
from effopd.extrapolation.search import Score

SCALES = PRESETS["line_search"].scales


def best_at(factor: float) -> Callable[[float], Score]:
    """A score with one maximum, at this multiple of the update; its distance to W_t grows with the square of a jump."""

    def evaluate(scale: float) -> Score:
        return Score(-abs(math.log2((1 + scale) / factor)), kl_to_current=1e-3 * scale**2)

    return evaluate


def tried(result: SearchResult) -> list[float]:
    return [1 + candidate.scale for candidate in result.candidates]


def test_the_scales_of_the_preset_double_the_update() -> None:
    assert [1 + scale for scale in SCALES[:5]] == [2, 4, 8, 16, 32]
    assert [1 + scale for scale in TAKEN_BACK] == [1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64]


@pytest.mark.parametrize(
    ("factor", "expected"),
    [
        (1, [2, 1 / 2]),
        (16, [2, 4, 8, 16, 32]),
        (1 / 2, [2, 1 / 2, 1 / 4]),
        (1 / 8, [2, 1 / 2, 1 / 4, 1 / 8, 1 / 16]),
    ],
)
def test_it_climbs_to_the_best(factor: float, expected: list[float]) -> None:
    result = line_search(best_at(factor), SCALES)
    assert tried(result) == expected
    assert 1 + result.accepted_scale == factor
    assert result.baseline == best_at(factor)(0.0)
    accepted = [candidate.score.value for candidate in result.candidates if candidate.accepted]
    assert accepted == sorted(accepted)


def test_a_tie_is_no_gain_unless_asked_for() -> None:
    def flat(scale: float) -> Score:
        return Score(0.0)

    assert line_search(flat, SCALES).accepted_scale == 0
    assert line_search(flat, SCALES, acceptance="paper").accepted_scale == SCALES[-1]


@pytest.mark.parametrize("bad", [math.nan, -math.inf])
def test_what_is_not_finite_is_not_accepted(bad: float) -> None:
    def evaluate(scale: float) -> Score:
        return Score(bad if scale > 3 else scale)

    assert line_search(evaluate, SCALES).accepted_scale == 3


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_from_weights_that_diverged_it_goes_nowhere(bad: float) -> None:
    result = line_search(lambda scale: Score(-1.0 if scale else bad), SCALES)
    assert (result.candidates, result.accepted_scale) == ((), 0.0)


def test_the_trust_region_bounds_how_far_it_goes() -> None:
    result = line_search(best_at(64), SCALES, max_kl=0.1)
    assert result.accepted_scale == 7  # 1e-3 * 7^2 nats; 15 would be 0.225
    assert "0.225 nats per token from W_t, and 0.1 is allowed" in result.candidates[-1].reason


def test_a_distance_as_large_as_the_trust_region_is_within_it() -> None:
    result = line_search(best_at(64), SCALES, max_kl=best_at(64)(7).kl_to_current)
    assert result.accepted_scale == 7


def test_a_distance_that_was_not_measured_is_within_no_bound() -> None:
    assert line_search(lambda scale: Score(scale), SCALES, max_kl=0.1).accepted_scale == 0


def test_without_scales_nothing_is_evaluated() -> None:
    def evaluate(scale: float) -> Score:
        raise AssertionError

    assert line_search(evaluate, ()) == SearchResult(None, (), 0.0)


def noisy(gain: float) -> Callable[[float], Score]:
    """Scores on four completions, of which two gain and two lose: a factor of 2 gains `gain` with an error of 1."""
    spread = math.sqrt(3)

    def evaluate(scale: float) -> Score:
        if scale > 1:
            return Score.of([-9.0] * 4)
        shift = gain if scale == 1 else 0.0 if scale == 0 else -9.0
        sign = 1 if scale == 1 else 0
        return Score.of([5.0 + shift + sign * spread * each for each in (1, 1, -1, -1)])

    return evaluate


def test_a_gain_within_its_error_is_not_accepted() -> None:
    gain, error = noisy(0.9)(1.0).gain(noisy(0.9)(0.0))
    assert (gain, error) == (pytest.approx(0.9), pytest.approx(1.0))
    for size, accepted in ((0.9, 0.0), (1.1, 1.0)):
        result = line_search(noisy(size), SCALES, min_delta=1.0)
        assert result.accepted_scale == accepted
        assert [candidate.accepted for candidate in result.candidates] == [bool(accepted), False]
    assert (
        "gains 0.9 over W_t, with a standard error of 1"
        in line_search(noisy(0.9), SCALES, min_delta=1.0).candidates[0].reason
    )
    assert line_search(noisy(0.9), SCALES).accepted_scale == 1  # without the bound, the mean decides


def test_ties_are_refused_where_a_gain_is_asked_for() -> None:
    result = line_search(lambda scale: Score.of([1.0, 2.0]), SCALES, acceptance="paper", min_delta=1.0)
    assert result.accepted_scale == 0
    assert not any(candidate.accepted for candidate in result.candidates)


def test_one_completion_has_no_error() -> None:
    assert Score.of([2.0]).gain(Score.of([1.0])) == (1.0, 0.0)
    assert math.isnan(Score.of([2.0]).stderr)
