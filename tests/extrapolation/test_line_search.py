"""The rule of the line search: where it goes, when it stops, and what it remembers and says."""

import logging
import math
from collections.abc import Callable, Sequence

import pytest

from effopd.extrapolation import PRESETS, SearchResult, line_search
from effopd.extrapolation.line_search import TAKEN_BACK, SearchMemory
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
    ("factor", "start", "expected"),
    [
        (1, 1, [2, 1 / 2]),
        (16, 1, [2, 4, 8, 16, 32]),
        (16, 16, [16, 32, 8]),
        (64, 16, [16, 32, 64, 128]),
        (4, 64, [64, 32, 16, 8, 4, 2]),  # from 16 on it is no better than W_t, which does not end it
        (1, 8, [8, 4, 2, 1 / 2]),
        (1 / 8, 1, [2, 1 / 2, 1 / 4, 1 / 8, 1 / 16]),
        (1 / 8, 4, [4, 2, 1 / 2, 1 / 4, 1 / 8, 1 / 16]),
        (4, 3, [2, 4, 8]),  # 3 is none of the scales
    ],
)
def test_it_climbs_to_the_best_from_where_it_starts(factor: float, start: float, expected: list[float]) -> None:
    result = line_search(best_at(factor), SCALES, start - 1)
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


def test_the_trust_region_bounds_how_far_it_goes() -> None:
    result = line_search(best_at(64), SCALES, max_kl=0.1)
    assert result.accepted_scale == 7  # 1e-3 * 7^2 nats; 15 would be 0.225
    assert "0.225 nats per token from W_t, and 0.1 is allowed" in result.candidates[-1].reason
    # From beyond the bound it comes back.
    assert line_search(best_at(64), SCALES, start=63.0, max_kl=0.1).accepted_scale == 7


def test_a_distance_that_was_not_measured_is_within_no_bound() -> None:
    assert line_search(lambda scale: Score(scale), SCALES, max_kl=0.1).accepted_scale == 0


def test_without_scales_nothing_is_evaluated() -> None:
    def evaluate(scale: float) -> Score:
        raise AssertionError

    assert line_search(evaluate, ()) == SearchResult(None, (), 0.0)


def learn(caplog: pytest.LogCaptureFixture, memory: SearchMemory, scales: Sequence[float], rate: float) -> list[str]:
    """Let a memory learn from searches; return what it said at each, or nothing."""
    said = []
    for scale in scales:
        caplog.clear()
        with caplog.at_level(logging.WARNING, "effopd"):
            memory.learn(scale, rate)
        said.append(" ".join(caplog.messages))
    return said


def test_the_user_is_told_once_that_the_rate_is_too_small(caplog: pytest.LogCaptureFixture) -> None:
    memory = SearchMemory()
    said = learn(caplog, memory, (15.0, 15.0, 31.0, 7.0, 15.0, 15.0), 1e-5)
    assert [bool(message) for message in said] == [False] * 3 + [True] + [False] * 2
    assert "learning rate of 1e-05 is about 16 times too small" in said[3]
    assert memory.start == 15


def test_the_user_is_told_that_the_rate_is_too_large(caplog: pytest.LogCaptureFixture) -> None:
    memory = SearchMemory()
    assert "learning rate of 0.1 is about 4 times too large" in learn(caplog, memory, [-0.75] * 4, 0.1)[3]
    assert memory.start == 0


def test_a_rate_that_fits_is_not_spoken_of(caplog: pytest.LogCaptureFixture) -> None:
    assert not any(learn(caplog, SearchMemory(), (1.0, 15.0, 15.0, 15.0, 0.0, 15.0, 15.0, 15.0), 1e-3))


def test_other_processes_are_silent(caplog: pytest.LogCaptureFixture) -> None:
    memory = SearchMemory()
    for _ in range(5):
        memory.learn(15.0, 1e-5, is_main_process=False)
    assert memory.is_told
    assert not caplog.messages


def test_memory_goes_on_from_its_state(caplog: pytest.LogCaptureFixture) -> None:
    memory = SearchMemory()
    learn(caplog, memory, (15.0, 15.0, 31.0), 1e-5)
    again = SearchMemory(**memory.state())
    assert learn(caplog, again, [7.0], 1e-5) == learn(caplog, memory, [7.0], 1e-5) != [""]
    assert learn(caplog, SearchMemory(**memory.state()), [7.0], 1e-5) == [""]  # it remembers that it spoke
