import math

import pytest

from effopd.errors import ConfigurationError
from effopd.extrapolation.presets import PRESETS, ExtrapolationConfig, resolve_preset
from effopd.extrapolation.search import PAPER_SCALES, Score, check_scales, search


def run(values: dict[float, float], acceptance: str = "paper") -> tuple[float, list[tuple[float, bool]], list[float]]:
    """The accepted scale, the candidates, and what was evaluated in which order."""
    asked: list[float] = []

    def evaluate(scale: float) -> Score:
        asked.append(scale)
        return Score(values[scale])

    result = search(evaluate, PAPER_SCALES, acceptance)  # type: ignore[arg-type]
    return result.accepted_scale, [(c.scale, c.accepted) for c in result.candidates], asked


def test_stops_at_the_first_worse_candidate() -> None:
    accepted, candidates, asked = run({0: 0.5, 2: 0.6, 4: 0.7, 6: 0.65, 8: 0.9, 10: 0.9})
    assert accepted == 4
    assert candidates == [(2, True), (4, True), (6, False)]
    assert asked == [0, 2, 4, 6]


def test_compares_with_the_best_so_far_not_with_the_start() -> None:
    assert run({0: 0.5, 2: 0.7, 4: 0.6, 6: 1, 8: 1, 10: 1})[0] == 2


def test_first_candidate_worse_leaves_the_weights() -> None:
    assert run({0: 0.5, 2: 0.4})[0] == 0


def test_all_accepted() -> None:
    accepted, candidates, _ = run({0: 0.1, 2: 0.2, 4: 0.3, 6: 0.4, 8: 0.5, 10: 0.6})
    assert accepted == 10
    assert len(candidates) == 5


@pytest.mark.parametrize(("acceptance", "accepted"), [("paper", 10), ("reference", 0)])
def test_equal_scores_tell_paper_and_reference_apart(acceptance: str, accepted: float) -> None:
    assert run(dict.fromkeys((0, *PAPER_SCALES), 0.5), acceptance)[0] == accepted


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_scores_that_are_not_finite_are_rejected_and_recorded(bad: float) -> None:
    result = search(lambda scale: Score(bad if scale == 4 else 0.5), PAPER_SCALES)
    assert result.accepted_scale == 2
    assert not result.candidates[-1].accepted
    assert "not finite" in result.candidates[-1].reason


def test_nothing_is_tried_over_a_baseline_that_is_not_finite() -> None:
    result = search(lambda scale: Score(0.5 if scale else math.nan), PAPER_SCALES)
    assert result.accepted_scale == 0
    assert result.candidates == ()


def test_without_scales_nothing_is_evaluated() -> None:
    result = search(lambda scale: pytest.fail("evaluated"), ())
    assert result.baseline is None
    assert result.accepted_scale == 0


@pytest.mark.parametrize("scales", [(2, 2), (4, 2), (0, 1), (-1, 1), (1, math.inf), (math.nan,), (1e39,)])
def test_bad_scales(scales: tuple[float, ...]) -> None:
    with pytest.raises(ConfigurationError, match="strictly increasing"):
        check_scales(scales)


def test_presets_are_the_documented_rules() -> None:
    assert PRESETS["paper"].scales == (2, 4, 6, 8, 10)
    assert PRESETS["paper"].num_prompts == 50
    assert PRESETS["paper"].acceptance == "paper"
    assert PRESETS["paper"].parameters == "all"
    assert PRESETS["reference"].acceptance == "reference"


def test_overrides() -> None:
    config = resolve_preset("paper", scales=[1, 3], schedule=[2, 5])
    assert config == ExtrapolationConfig(scales=(1.0, 3.0), schedule=(2, 5))


@pytest.mark.parametrize(
    ("preset", "overrides", "message"),
    [
        ("papr", {}, "expected one of paper, reference, adaptive"),
        ("paper", {"scale": [1]}, "got the field 'scale', expected one of .* Did you mean scales?"),
        ("paper", {"num_prompts": 0}, "expected a whole number of at least 1"),
        ("paper", {"acceptance": ">="}, "acceptance: got '>=', expected one of paper, reference"),
        ("paper", {"validator": "loss"}, "expected one of reward, teacher_kl"),
        ("paper", {"scales": [2, 1]}, "strictly increasing"),
        ("paper", {"schedule": "daily"}, "not known"),
    ],
)
def test_bad_settings(preset: str, overrides: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        resolve_preset(preset, **overrides)
