"""EffOPD on TRL's real trainers."""

import math
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from tiny import assert_same, contains_answer, distillation_trainer, grpo_trainer, tiny_dataset, tiny_model, weights
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import apply_activation_checkpointing
from transformers import TrainerCallback
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from effopd.errors import ConfigurationError
from effopd.extrapolation import EffOPDCallback, ExtrapolationConfig
from effopd.extrapolation.validation import RewardValidator, TeacherKLValidator
from effopd.parameters import clean_name
from extrapolation.scripted import records, script, with_effopd


@pytest.mark.parametrize("make", [distillation_trainer, grpo_trainer])
def test_three_lines_with_trl(make: Any, tmp_path: Path) -> None:
    trainer = make(tmp_path)
    callback = EffOPDCallback(trainer, reward=contains_answer, num_prompts=10)
    trainer.add_callback(callback)
    trainer.train()
    rows = records(tmp_path)
    assert [row["step"] for row in rows] == [1, 2, 4]
    assert callback.last == rows[-1]
    for row in rows:
        assert row["rollouts"] == 10 * (1 + len(row["candidates"]))
        assert 0 < row["generated_tokens"] <= 6 * row["rollouts"]
        assert row["validation_seconds"] > 0
        accepted = [c["scale"] for c in row["candidates"] if c["accepted"]]
        assert row["accepted_scale"] == (accepted[-1] if accepted else 0)
        assert row["changed_fraction"] > 0.5
        assert row["delta_norm"]["total"] > 0
    assert rows[0]["cosine_to_previous"] is None
    assert -1 <= rows[1]["cosine_to_previous"] <= 1
    for key in ("rollouts", "generated_tokens", "teacher_tokens"):
        assert callback.cost[key] == sum(row[key] for row in rows)


def test_a_validator_by_its_name(tmp_path: Path) -> None:
    callback = EffOPDCallback(distillation_trainer(tmp_path), validator="teacher_kl")
    assert isinstance(callback.validator, TeacherKLValidator)
    callback = EffOPDCallback(distillation_trainer(tmp_path), contains_answer, "adaptive", validator="reward")
    assert isinstance(callback.validator, RewardValidator)
    with pytest.raises(ConfigurationError, match="validator: got 'kl', expected one of"):
        EffOPDCallback(distillation_trainer(tmp_path), validator="kl")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("num_prompts", 5.5), ("num_prompts", True), ("seed", "x"), ("redraw_prompts", "no"), ("scales", 4)),
        *(("schedule", 4), ("schedule", [1, "two"]), ("schedule", [1, 2.5])),
    ],
)
def test_settings_of_a_wrong_type(name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=name):
        ExtrapolationConfig(**{name: value})


def test_without_scales_training_is_plain_trl_to_the_bit(tmp_path: Path) -> None:
    plain = distillation_trainer(tmp_path / "plain")
    plain.train()
    trainer = distillation_trainer(tmp_path / "effopd")
    with_effopd(trainer, scales=[])
    trainer.train()
    assert_same(weights(plain), weights(trainer))
    assert all(row["rollouts"] == 0 for row in records(tmp_path / "effopd"))


def test_rejecting_everything_is_plain_trl_to_the_bit(tmp_path: Path) -> None:
    """Validation neither moves the weights nor the random numbers of training."""
    plain = distillation_trainer(tmp_path / "plain")
    plain.train()
    trainer = distillation_trainer(tmp_path / "effopd")
    # A reward that is constant is never strictly better.
    with_effopd(trainer, reward=lambda completions, **kwargs: [0.0] * len(completions), acceptance="reference")
    trainer.train()
    assert_same(weights(plain), weights(trainer))
    assert [row["accepted_scale"] for row in records(tmp_path / "effopd")] == [0, 0, 0]


def test_accepted_weights_are_the_candidate_that_was_scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = distillation_trainer(tmp_path, max_steps=1)
    initial = weights(trainer)
    with_effopd(trainer)
    scripted = script(monkeypatch, 0.1, 0.2, 0.3, 0.2)
    trainer.train()
    w_t, second, fourth, sixth = scripted.seen
    assert_same(weights(trainer), fourth)
    for scale, seen in ((2, second), (4, fourth), (6, sixth)):
        for name in initial:
            exact = w_t[name].double() + scale * (w_t[name].double() - initial[name].double())
            torch.testing.assert_close(seen[name].double(), exact, rtol=3e-7, atol=1e-12)


def test_rejected_weights_are_those_of_the_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = distillation_trainer(tmp_path, max_steps=1)
    with_effopd(trainer)
    scripted = script(monkeypatch, 0.5, 0.4)
    trainer.train()
    assert_same(weights(trainer), scripted.seen[0])


def test_the_next_anchor_is_what_was_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = distillation_trainer(tmp_path, max_steps=2)
    with_effopd(trainer)
    scripted = script(monkeypatch, 0.1, 0.2, 0.1, 0.1, 0.2, 0.1)
    trainer.train()
    accepted, w_2, candidate = scripted.seen[1], scripted.seen[3], scripted.seen[4]
    for name in accepted:
        exact = w_2[name].double() + 2 * (w_2[name].double() - accepted[name].double())
        torch.testing.assert_close(candidate[name].double(), exact, rtol=3e-7, atol=1e-12)


def test_the_next_anchor_is_w_t_if_nothing_was_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = distillation_trainer(tmp_path, max_steps=2)
    with_effopd(trainer)
    scripted = script(monkeypatch, 0.5, 0.4, 0.5, 0.4)
    trainer.train()
    w_1, _, w_2, candidate = scripted.seen
    for name in w_1:
        exact = w_2[name].double() + 2 * (w_2[name].double() - w_1[name].double())
        torch.testing.assert_close(candidate[name].double(), exact, rtol=3e-7, atol=1e-12)


@pytest.mark.parametrize(("random_numbers", "num_seeds"), [("independent", 4), ("shared", 2)])
def test_candidates_share_random_numbers_only_when_asked_to(
    random_numbers: str, num_seeds: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = distillation_trainer(tmp_path, max_steps=2)
    with_effopd(trainer, random_numbers=random_numbers)
    scripted = script(monkeypatch, 0.5, 0.4, 0.5, 0.4)
    trainer.train()
    assert len(scripted.seeds) == 4
    assert len(set(scripted.seeds)) == num_seeds  # shared: one for each of the two triggers


def test_teacher_tokens_are_counted(tmp_path: Path) -> None:
    trainer = distillation_trainer(tmp_path, max_steps=1)
    callback = with_effopd(trainer, preset="adaptive")
    trainer.train()
    (row,) = records(tmp_path)
    assert row["teacher_tokens"] == row["generated_tokens"] == callback.cost["teacher_tokens"] > 0


def test_frozen_parameters_are_left_out(tmp_path: Path) -> None:
    model = tiny_model(0)
    model.lm_head.weight.requires_grad = False
    callback = EffOPDCallback(distillation_trainer(tmp_path, model=model), contains_answer)
    assert "model.norm.weight" in callback._names
    assert "lm_head.weight" not in callback._names


def test_only_selected_parameters_move(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = distillation_trainer(tmp_path, max_steps=1)
    with_effopd(trainer, preset="reference")
    scripted = script(monkeypatch, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
    trainer.train()
    moved = {name for name in scripted.seen[0] if not torch.equal(scripted.seen[0][name], weights(trainer)[name])}
    assert moved == {name for name in scripted.seen[0] if "attn" in name or "attention" in name or "mlp" in name}
    assert any("post_attention_layernorm" in name for name in moved)


def test_a_score_that_is_not_finite_is_recorded(tmp_path: Path) -> None:
    trainer = distillation_trainer(tmp_path, max_steps=1)
    seen: list[str] = []

    def judge(completions: list[str], **kwargs: Any) -> list[float | None]:
        """Judge the empty completion that is tried out, W_t, and then nothing."""
        seen.extend(completions)
        return [None if len(seen) > 11 else 1.0] * len(completions)

    with_effopd(trainer, reward=judge)
    trainer.train()
    (row,) = records(tmp_path)
    assert row["accepted_scale"] == 0
    assert row["baseline"]["score"] == 1
    (candidate,) = row["candidates"]
    assert candidate["score"] is None and "not finite" in candidate["reason"]


def test_a_candidate_that_overflows_is_rejected_without_being_sampled(tmp_path: Path) -> None:
    trainer = distillation_trainer(tmp_path, max_steps=1, learning_rate=3.0)
    callback = with_effopd(trainer, reward=lambda completions, **kwargs: [0.0] * len(completions), scales=[2, 3e38])
    trainer.train()
    (row,) = records(tmp_path)
    assert [(c["accepted"], c["score"]) for c in row["candidates"]] == [(True, 0.0), (False, None)]
    assert row["rollouts"] == callback.cost["rollouts"] == 20
    assert row["accepted_scale"] == 2
    assert all(bool(torch.isfinite(tensor).all()) for tensor in weights(trainer).values())


def test_bf16_updates_that_round_to_nothing_warn(tmp_path: Path) -> None:
    trainer = distillation_trainer(tmp_path, max_steps=1, learning_rate=1e-6, model=tiny_model(0, torch.bfloat16))
    with_effopd(trainer)
    with pytest.warns(UserWarning, match="float32 master weights"):
        trainer.train()


def test_float32_weights_do_not_warn(tmp_path: Path) -> None:
    trainer = distillation_trainer(tmp_path, max_steps=1, learning_rate=1e-6)
    with_effopd(trainer)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        trainer.train()


@pytest.mark.parametrize(
    ("reset", "expected"),
    # A jump after step 1, none after step 2, and a jump after step 4.
    [(None, [1, 2, 3, 4, 5]), (False, [1, 2, 3, 4, 5]), (True, [1, 1, 2, 3, 1])],
)
def test_a_jump_empties_the_state_of_the_optimizer_only_if_asked_to(
    reset: bool | None, expected: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(monkeypatch, 0.1, 0.2, 0.1, 0.5, 0.4, 0.1, 0.2, 0.1)
    trainer = distillation_trainer(tmp_path, max_steps=5)
    with_effopd(trainer, reset_optimizer=reset)
    trainer.create_optimizer()
    steps: list[int] = []
    weight = trainer.model.lm_head.weight
    trainer.optimizer.register_step_post_hook(lambda optimizer, *_: steps.append(int(optimizer.state[weight]["step"])))
    trainer.train()
    assert [row["accepted_scale"] > 0 for row in records(tmp_path)] == [True, False, True]
    assert steps == expected


def test_redrawing_prompts(tmp_path: Path) -> None:
    trainer = distillation_trainer(tmp_path)
    fixed, redrawn = (EffOPDCallback(trainer, contains_answer, num_prompts=10, redraw_prompts=r) for r in (False, True))
    assert fixed._draw(1) == fixed._draw(2)
    assert redrawn._draw(1) != redrawn._draw(2)
    assert redrawn._draw(2) == redrawn._draw(2)


def test_the_seed_decides_prompts_and_random_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for number, seed in enumerate((None, 3, 5)):
        trainer = distillation_trainer(tmp_path / str(number), max_steps=1)
        assert trainer.args.seed == 3
        callback = with_effopd(trainer, seed=seed)
        scripted = script(monkeypatch, 0.5, 0.4)
        trainer.train()
        found.append((callback._draw(1), scripted.seeds))
    assert found[0] == found[1]
    assert found[0][0] != found[2][0]
    assert not set(found[0][1]) & set(found[2][1])


def test_rewards_of_a_grpo_trainer_are_the_default(tmp_path: Path) -> None:
    trainer = grpo_trainer(tmp_path, max_steps=1)
    trainer.add_callback(EffOPDCallback(trainer, num_prompts=10))
    trainer.train()
    assert 0 <= records(tmp_path)[0]["baseline"]["score"] <= 1


def test_wrong_use_is_refused_before_training(tmp_path: Path) -> None:
    trainer = distillation_trainer(tmp_path)
    with pytest.raises(ConfigurationError, match="needs a reward function"):
        EffOPDCallback(trainer)
    with pytest.raises(ConfigurationError, match="Validation needs 65 prompts, the training dataset has 64"):
        EffOPDCallback(trainer, contains_answer, num_prompts=65)
    with pytest.raises(ConfigurationError, match="the validation dataset has 0"):
        EffOPDCallback(trainer, contains_answer, validation_dataset=[])
    with pytest.raises(ConfigurationError, match="no column 'prompt'"):
        EffOPDCallback(trainer, contains_answer, validation_dataset=[{"question": "1+1="}] * 50)
    with pytest.raises(ConfigurationError, match="is a stream"):
        EffOPDCallback(trainer, contains_answer, validation_dataset=tiny_dataset().to_iterable_dataset())
    with pytest.raises(ConfigurationError, match="matches none"):
        EffOPDCallback(trainer, contains_answer, parameters="experts")
    with pytest.raises(ConfigurationError, match="2 reward weights for 1"):
        from effopd.extrapolation import RewardValidator

        EffOPDCallback(trainer, validator=RewardValidator(contains_answer, [1, 2]))
    with pytest.raises(ConfigurationError, match="strictly increasing"):
        EffOPDCallback(trainer, contains_answer, preset=ExtrapolationConfig(scales=(2, 2)))
    with pytest.raises(ConfigurationError, match="needs a trainer with a teacher"):
        EffOPDCallback(grpo_trainer(tmp_path), preset="adaptive")


def test_a_reward_function_of_the_wrong_length_is_named(tmp_path: Path) -> None:
    def short(completions: list[str], **kwargs: Any) -> list[float]:
        return [1.0]

    trainer = distillation_trainer(tmp_path, max_steps=1)
    with_effopd(trainer, reward=short)
    with pytest.raises(ConfigurationError, match="'short' returned 1 rewards for 10"):
        trainer.train()


def test_standard_errors(tmp_path: Path) -> None:
    trainer = distillation_trainer(tmp_path, max_steps=1)
    with_effopd(trainer, reward=lambda completions, **kwargs: [float(i % 2) for i in range(len(completions))])
    trainer.train()
    baseline = records(tmp_path)[0]["baseline"]
    assert baseline["score"] == 0.5
    assert baseline["stderr"] == pytest.approx(math.sqrt(0.25 * 10 / 9 / 10))


def test_weights_that_did_not_move_are_not_validated(tmp_path: Path) -> None:
    """The learning rate of the first step of a warm-up is 0."""
    trainer = distillation_trainer(tmp_path, max_steps=2, lr_scheduler_type="constant_with_warmup", warmup_steps=2)
    callback = with_effopd(trainer)
    trainer.train()
    still, moved = records(tmp_path)
    assert (still["changed_fraction"], still["rollouts"], still["accepted_scale"]) == (0, 0, 0)
    assert (still["baseline"], still["candidates"]) == (None, [])
    assert moved["rollouts"] >= 20
    assert callback.num_accepted == (moved["accepted_scale"] > 0)


def test_layers_wrapped_after_the_callback_was_made(tmp_path: Path) -> None:
    """As accelerate does for FSDP2 with activation checkpointing, which changes the names of parameters."""
    plain = distillation_trainer(tmp_path / "plain")
    with_effopd(plain)
    plain.train()
    wrapped = distillation_trainer(tmp_path / "wrapped")
    with_effopd(wrapped)
    apply_activation_checkpointing(wrapped.model, check_fn=lambda module: isinstance(module, LlamaDecoderLayer))
    wrapped.train()
    assert_same(weights(plain), {clean_name(name): tensor for name, tensor in weights(wrapped).items()})
    assert any(row["accepted_scale"] for row in records(tmp_path / "wrapped"))


def test_a_callback_of_another_trainer_is_refused(tmp_path: Path) -> None:
    trainer = distillation_trainer(tmp_path)
    trainer.add_callback(EffOPDCallback(distillation_trainer(tmp_path / "other"), contains_answer))
    with pytest.raises(ConfigurationError, match="made for another trainer"):
        trainer.train()


def test_two_callbacks_on_one_trainer_are_refused(tmp_path: Path) -> None:
    """As when a notebook's cell that adds one is run again."""
    trainer = distillation_trainer(tmp_path, max_steps=1)
    with_effopd(trainer)
    with_effopd(trainer)
    with pytest.raises(ConfigurationError, match="more than one EffOPDCallback"):
        trainer.train()
    trainer.remove_callback(EffOPDCallback)
    trainer.train()
    assert len(records(tmp_path)) == 1


def test_a_callback_that_comes_too_late_is_refused(tmp_path: Path) -> None:
    trainer = distillation_trainer(tmp_path)

    class AddsOne(TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            with_effopd(trainer)

    trainer.add_callback(AddsOne())
    with pytest.raises(ConfigurationError, match="training was under way"):
        trainer.train()


def test_weights_that_leave_all_range_are_recorded(tmp_path: Path) -> None:
    """JSON has neither infinity nor NaN: norms and cosines are null then."""
    trainer = distillation_trainer(tmp_path)
    callback = with_effopd(trainer, scales=[])
    trainer.state.global_step = 0
    callback.on_train_begin(trainer.args, trainer.state, trainer.control)
    for trainer.state.global_step, value in ((1, 1e30), (2, -1e30)):
        trainer.model.lm_head.weight.data[0, 0] = value
        callback.on_step_end(trainer.args, trainer.state, trainer.control)
    last = records(tmp_path)[-1]
    assert last["delta_norm"]["total"] is last["delta_norm"]["lm_head"] is last["cosine_to_previous"] is None
    assert last["delta_norm"]["mlp"] == 0


def test_what_is_pushed_is_tagged(tmp_path: Path) -> None:
    """TRL's card, with each checkpoint, and the model's own tags, which go into the cards of `push_to_hub`."""
    plain = distillation_trainer(tmp_path / "plain", max_steps=1, save_strategy="steps", save_steps=1)
    plain.train()
    trainer = distillation_trainer(tmp_path / "effopd", max_steps=1, save_strategy="steps", save_steps=1)
    with_effopd(trainer)
    for _ in range(2):
        trainer.train()
    before, after = (set(ModelCard.load(tmp_path / name / "README.md").data.tags) for name in ("plain", "effopd"))
    assert after - before == {"effopd"}
    assert sorted(trainer.model.model_tags) == sorted([*plain.model.model_tags, "effopd"])
    assert "effopd" not in type(trainer)._tag_names
