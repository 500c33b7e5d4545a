"""Candidates judged on rollouts that W_t samples once: what is scored, what it costs, and what is left alone."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import assert_same, contains_answer, distillation_trainer, grpo_trainer, kl_by_hand, weights

from effopd.errors import ConfigurationError
from effopd.extrapolation import EffOPDCallback, SharedKLValidator
from effopd.extrapolation import callback as callback_module
from extrapolation.scripted import records, with_effopd


def add(trainer: Any, **settings: Any) -> EffOPDCallback:
    return with_effopd(trainer, **{"validator": "shared_kl", "num_prompts": 11} | settings)


def watch_scores(monkeypatch: pytest.MonkeyPatch, see: Any) -> None:
    original = callback_module.validate

    def validate(trainer: Any, validator: Any, *args: Any) -> Any:
        score = original(trainer, validator, *args)
        see(trainer, validator, score)
        return score

    monkeypatch.setattr(callback_module, "validate", validate)


def test_scores_are_the_kl_of_every_candidate_on_the_rollouts_of_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[Any, float]] = []

    def see(trainer: Any, validator: Any, score: Any) -> None:
        if not isinstance(validator, SharedKLValidator):
            return  # it confirms a candidate on completions of its own
        rollouts = validator.rollouts(trainer, [], seed=0)
        by_hand = -torch.stack([kl_by_hand(trainer, rollout) for rollout in rollouts])
        assert len(by_hand) == 11
        assert score.value == pytest.approx(by_hand.mean().item(), rel=1e-4)
        assert score.stderr == pytest.approx((by_hand.std() / 11**0.5).item(), rel=1e-4)
        seen.append((rollouts, score.value))

    watch_scores(monkeypatch, see)
    trainer = distillation_trainer(tmp_path, gradient_accumulation_steps=2, temperature=0.8)
    add(trainer, schedule=[2, 3], acceptance="reference")
    trainer.train()
    assert len({id(rollouts) for rollouts, _ in seen}) == 2  # one set for each trigger
    assert len({score for _, score in seen}) == len(seen) > 4


def test_they_are_sampled_and_read_by_the_teacher_once_a_trigger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = distillation_trainer(tmp_path, max_steps=4)
    callback = add(trainer, schedule="every:1", scales=[1e-3, 2e-3, 3e-3])
    sampled: list[int] = []
    read: list[int] = []
    single = trainer._generate_single_turn
    monkeypatch.setattr(trainer, "_generate_single_turn", lambda *a, **k: (sampled.append(1), single(*a, **k))[1])
    trainer.teacher_model.model.register_forward_hook(lambda *_: read.append(1))
    scores = []
    watch_scores(monkeypatch, lambda trainer, validator, score: scores.append(score))
    trainer.train()
    rows = records(tmp_path)
    assert all(len(row["candidates"]) >= 1 for row in rows)
    confirmations = [sum(c["confirmation"] is not None for c in row["candidates"]) for row in rows]
    assert sum(confirmations) >= 1
    # The steps' own, and 11 prompts in two batches at each trigger and for each confirmation.
    assert len(sampled) == len(read) == 4 + (4 + sum(confirmations)) * 2
    assert [row["rollouts"] for row in rows] == [11 * (1 + number) for number in confirmations]
    assert all(row["generated_tokens"] == row["teacher_tokens"] <= row["rollouts"] * 6 for row in rows)
    assert {score.rollouts for score in scores if score.rollouts} == {11}
    assert callback.cost["rollouts"] == 11 * (4 + sum(confirmations))
    assert trainer._get_last_hidden_state.__func__ is type(trainer)._get_last_hidden_state
    assert isinstance(callback.validator, SharedKLValidator)
    assert not callback.validator._teacher_states  # nothing is held between triggers


def test_training_is_plain_trl_to_the_bit_where_nothing_is_accepted(tmp_path: Path) -> None:
    plain = distillation_trainer(tmp_path / "plain")
    plain.train()
    watched = distillation_trainer(tmp_path / "watched")
    add(watched, schedule="every:1", scales=[1e6])
    watched.train()
    assert [row["accepted_scale"] for row in records(tmp_path / "watched")] == [0] * 6
    assert_same(weights(plain), weights(watched))


def test_it_follows_the_kl_downhill(tmp_path: Path) -> None:
    trainer = distillation_trainer(tmp_path, learning_rate=1e-5)
    trainer.add_callback(EffOPDCallback(trainer, preset="adaptive"))
    trainer.train()
    rows = records(tmp_path)
    assert max(row["accepted_scale"] for row in rows) >= 64  # the rate is far too small
    for row in rows:
        scores = [row["baseline"]["score"], *(c["score"] for c in row["candidates"] if c["accepted"])]
        assert scores == sorted(scores)


def test_wrong_use_is_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="needs a trainer with a teacher model; GRPOTrainer has none"):
        add(grpo_trainer(tmp_path))
    with pytest.raises(ConfigurationError, match="derived from effopd's Validator"):
        add(distillation_trainer(tmp_path), validator=contains_answer)
