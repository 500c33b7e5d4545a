"""Validations in which every score is equal, and `min_delta`, which refuses ties and gains within the noise."""

import math
import warnings
from pathlib import Path
from typing import Any

import pytest
from tiny import assert_same, distillation_trainer, weights

from effopd.errors import ConfigurationError
from effopd.extrapolation.presets import resolve_preset
from effopd.extrapolation.search import PAPER_SCALES, Score, judge, search
from effopd.extrapolation.ties import all_scores_equal, warn_of_ties
from extrapolation.scripted import records, with_effopd


def always(value: float) -> Any:
    return lambda completions, **kwargs: [value] * len(completions)


@pytest.mark.parametrize("value", [0.0, 1.0, 0.1])
def test_equal_scores_are_accepted_as_in_the_paper_with_one_warning_and_are_recorded(
    value: float, tmp_path: Path
) -> None:
    trainer = distillation_trainer(tmp_path, max_steps=4)
    callback = with_effopd(trainer, reward=always(value), scales=[1e-3, 2e-3])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.train()
    [warning] = [each for each in caught if "have the score" in str(each.message)]
    assert f"Step 1: all validation completions, of W_t and of every candidate, have the score {value:g}" in str(
        warning.message
    )
    assert "accepts ties, and so the scale 0.002" in str(warning.message)
    assert "min_delta=1, which refuses ties" in str(warning.message)
    rows = records(tmp_path)
    assert [row["step"] for row in rows] == [1, 2, 4]
    assert all(row["all_scores_equal"] and row["accepted_scale"] == 2e-3 for row in rows)
    assert callback.num_accepted == 3


@pytest.mark.parametrize("settings", [{"min_delta": 1.0}, {"acceptance": "reference"}])
def test_where_ties_are_refused_training_is_plain_trl_without_a_warning(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    plain = distillation_trainer(tmp_path / "plain", max_steps=2)
    plain.train()
    trainer = distillation_trainer(tmp_path / "effopd", max_steps=2)
    with_effopd(trainer, reward=always(0.0), **settings)
    trainer.train()
    assert_same(weights(plain), weights(trainer))
    rows = records(tmp_path / "effopd")
    assert all(row["all_scores_equal"] and len(row["candidates"]) == 1 for row in rows)


def test_scores_are_not_equal_where_a_completion_or_a_mean_differs() -> None:
    def outcome(*scores: Score) -> Any:
        given = iter(scores)
        return search(lambda scale: next(given), PAPER_SCALES[: len(scores) - 1])

    assert all_scores_equal(outcome(Score(1.0, 0.0), Score(1.0, 0.0)))
    assert all_scores_equal(outcome(Score(-300.0, 3e-8), Score(-300.0, 0.0)))  # a mean is rounded
    assert not all_scores_equal(outcome(Score(0.5, 0.07), Score(0.5, 0.07)))
    assert not all_scores_equal(outcome(Score(0.0, 0.0), Score(1.0, 0.0)))
    assert not all_scores_equal(outcome(Score(0.0, 0.0), Score(0.0, 0.0), Score(0.02, 0.02)))
    assert not all_scores_equal(outcome(Score(1.0), Score(1.0)))  # one prompt, whose error is not known
    assert not all_scores_equal(search(lambda scale: Score(0.0), ()))
    assert not warn_of_ties(search(lambda scale: Score(0.0, 0.0), PAPER_SCALES, "reference"), step=1)


def test_a_gain_counts_in_standard_errors_of_the_difference() -> None:
    best, score = Score(0.5, 0.03), Score(0.6, 0.04)  # the difference has an error of 0.05
    assert judge(score, best, "paper", 1.9)[0]
    accepted, reason = judge(score, best, "paper", 2.1)
    assert not accepted
    assert reason == "0.6 >= 0.5, but not by more than 2.1 standard errors of 0.05"
    assert not judge(Score(0.5, 0.0), Score(0.5, 0.0), "paper", 1.0)[0]
    assert judge(Score(0.5, 0.0), Score(0.5, 0.0), "paper")[0]
    assert not judge(Score(0.4, 0.0), Score(0.5, 0.0), "paper", 1.0)[0]
    assert not judge(Score(0.6), Score(0.5), "paper", 1.0)[0]  # no error is known
    assert not judge(Score(math.nan), best, "paper", 1.0)[0]


def test_on_the_same_completions_the_error_is_that_of_the_pairs() -> None:
    best = Score.of([-10.0, -1.0, -5.0])
    score = Score.of([-9.9, -0.8, -4.8])  # small gains, all of them up: of 0.167 with an error of 0.033
    assert judge(score, best, "paper", 4.9)[0]
    assert not judge(score, best, "paper", 5.1)[0]
    unpaired = Score(score.value, score.stderr), Score(best.value, best.stderr)
    assert not judge(*unpaired, "paper", 0.1)[0]


def test_search_stops_at_a_gain_within_the_noise_and_climbs_from_the_best() -> None:
    values = {0: 0.50, 2: 0.60, 4: 0.62, 6: 0.90}
    result = search(lambda scale: Score(values[scale], 0.03), PAPER_SCALES, min_delta=1.0)
    assert result.accepted_scale == 2
    assert [candidate.accepted for candidate in result.candidates] == [True, False]


def test_candidates_judged_on_completions_of_w_t_are_paired(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from effopd.extrapolation import callback

    scored: list[Score] = []
    validate = callback.validate
    monkeypatch.setattr(callback, "validate", lambda *args: scored.append(validate(*args)) or scored[-1])
    for validator in ("shared_kl", "teacher_kl"):
        scored.clear()
        trainer = distillation_trainer(tmp_path / validator, max_steps=1)
        with_effopd(trainer, validator=validator, scales=[1.0], min_delta=0.01)
        trainer.train()
        baseline = scored[0]
        assert len(baseline.values) == (10 if validator == "shared_kl" else 0)
        if baseline.values:
            assert sum(baseline.values) / 10 == pytest.approx(baseline.value)
            assert Score.of(baseline.values).stderr == pytest.approx(baseline.stderr)


@pytest.mark.parametrize(
    ("preset", "settings", "message"),
    [
        ("paper", {"min_delta": -1}, "min_delta: got -1, expected"),
        ("paper", {"min_delta": "1"}, "min_delta: got '1', expected"),
        ("paper", {"min_delta": 1, "num_prompts": 1}, "a single validation prompt has none"),
        ("line_search", {"min_delta": 1, "num_prompts": 1}, "a single validation prompt has none"),
    ],
)
def test_settings_that_cannot_work(preset: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        resolve_preset(preset, **settings)
