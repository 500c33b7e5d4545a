"""Candidates scored on the next step's rollouts: when, on what, at what cost, and what is left alone."""

import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import assert_same, distillation_trainer, tiny_dataset, weights
from transformers import TrainerCallback, set_seed

from effopd import trl_hooks
from effopd.errors import ConfigurationError
from effopd.extrapolation import EffOPDCallback, NextRolloutsValidator
from effopd.training.metrics import MetricsCallback
from extrapolation.scripted import records
from extrapolation.test_fresh_weights import FakeEngine


def add(trainer: Any, **settings: Any) -> EffOPDCallback:
    small = {"preset": "line_search", "num_prompts": 8, "passes": 1, "max_kl": None}
    callback = EffOPDCallback(trainer, **small | settings)
    trainer.add_callback(callback)
    return callback


class Interrupt(TrainerCallback):
    """Ctrl-C after the first backward pass, before the optimizer steps."""

    def on_pre_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt


def test_it_searches_before_each_step_but_the_first_at_no_rollouts(tmp_path: Path) -> None:
    trainer = distillation_trainer(tmp_path, learning_rate=1e-5, max_steps=5)
    callback = add(trainer)
    metrics = MetricsCallback(trainer, callback)
    sampled: list[int] = []
    single = trainer._generate_single_turn

    def note(*args: Any, **kwargs: Any) -> Any:
        sampled.append(trainer.state.global_step)
        return single(*args, **kwargs)

    trainer._generate_single_turn = note
    trainer.train()
    rows = records(tmp_path)
    assert [row["step"] for row in rows] == [2, 3, 4, 5]
    assert sampled == [0, 1, 2, 3, 4]  # only training samples
    for key in ("rollouts", "generated_tokens", "teacher_tokens", "resampled_rollouts"):
        assert {row[key] for row in rows} == {0}
    assert rows[0]["accepted_scale"] >= 63  # the rate is far too small
    assert all(row["validation_seconds"] > 0 for row in rows)
    for row in rows:
        scores = [row["baseline"]["score"], *(c["score"] for c in row["candidates"] if c["accepted"])]
        assert scores == sorted(scores)
        assert all(c["kl_to_current"] >= 0 for c in row["candidates"])
    assert callback.num_accepted == sum(row["accepted_scale"] != 0 for row in rows)
    assert metrics.effopd is callback


def test_the_step_trains_the_accepted_weights_on_the_rollouts_that_judged_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = distillation_trainer(tmp_path, learning_rate=1e-4, max_steps=3)
    callback = add(trainer)
    seen: list[tuple[dict[str, torch.Tensor], Any]] = []
    search = callback._extrapolate

    def look(step: int) -> None:
        anchor = {name: tensor.clone() for name, tensor in callback._snapshot._anchor.items()}  # type: ignore[union-attr]
        current, batches = weights(trainer), trainer._buffered_inputs
        search(step)
        scale = callback.last["accepted_scale"]  # type: ignore[index]
        assert scale > 0 or seen
        assert trainer._buffered_inputs is batches
        expected = {name: torch.lerp(anchor[name], current[name], 1 + scale) for name in current}
        assert_same(weights(trainer), expected)
        seen.append((expected, batches))

    monkeypatch.setattr(callback, "_extrapolate", look)
    trained: list[Any] = []
    loss = trainer.compute_loss
    trainer.compute_loss = lambda model, batch, **kw: (
        trained.append((weights(trainer), batch)) if model.training else None,
        loss(model, batch, **kw),
    )[1]
    trainer.train()
    for (accepted, batches), (live, batch) in zip(seen, trained[1:], strict=True):
        assert_same(accepted, live)
        assert batch is batches[0]


def test_gains_within_their_error_can_be_refused(tmp_path: Path) -> None:
    trainer = distillation_trainer(tmp_path, learning_rate=1e-5, max_steps=3)
    add(trainer, min_delta=1e9)
    trainer.train()
    rows = records(tmp_path)
    assert [row["accepted_scale"] for row in rows] == [0, 0]
    assert all("with a standard error of" in row["candidates"][0]["reason"] for row in rows)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_training_is_plain_trl_to_the_bit_where_nothing_is_accepted(accumulation: int, tmp_path: Path) -> None:
    options = {"gradient_accumulation_steps": accumulation}
    plain = distillation_trainer(tmp_path / "plain", **options)
    plain.train()
    watched = distillation_trainer(tmp_path / "watched", **options)
    add(watched, max_kl=1e-30)
    watched.train()
    rows = records(tmp_path / "watched")
    assert [row["accepted_scale"] for row in rows] == [0] * 5
    assert all(len(row["candidates"]) >= 2 for row in rows)
    assert_same(weights(plain), weights(watched))


def test_without_scales_it_only_makes_its_passes(tmp_path: Path) -> None:
    trainer = distillation_trainer(tmp_path, max_steps=3)
    updates: list[int] = []
    add(trainer, scales=[], passes=4)
    trainer.create_optimizer()
    trainer.optimizer.register_step_post_hook(lambda *_: updates.append(trainer.state.global_step))
    trainer.train()
    assert updates == [0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3]
    assert {row["accepted_scale"] for row in records(tmp_path)} == {0}


def test_several_passes_that_go_too_far_are_taken_back(tmp_path: Path) -> None:
    trainer = distillation_trainer(tmp_path, learning_rate=0.3, max_steps=4)
    add(trainer, passes=4)
    trainer.train()
    rows = records(tmp_path)
    assert min(row["accepted_scale"] for row in rows) < 0
    for row in rows:
        if row["accepted_scale"] < 0:
            best = next(c for c in row["candidates"] if c["scale"] == row["accepted_scale"])
            assert best["score"] > row["baseline"]["score"]


def test_what_is_taken_back_counts_as_accepted_and_leaves_the_optimizer_its_state(tmp_path: Path) -> None:
    trainer = distillation_trainer(tmp_path, learning_rate=0.3, max_steps=4)
    callback = add(trainer, passes=4)
    trainer.create_optimizer()
    steps: list[int] = []
    weight = trainer.model.lm_head.weight
    trainer.optimizer.register_step_post_hook(lambda optimizer, *_: steps.append(int(optimizer.state[weight]["step"])))
    trainer.train()
    scales = [row["accepted_scale"] for row in records(tmp_path)]
    assert min(scales) < 0
    expected = [1, 2, 3, 4]
    for scale in scales:
        start = 0 if scale > 0 else expected[-1]
        expected += range(start + 1, start + 5)
    assert steps == expected
    assert callback.num_accepted == sum(scale != 0 for scale in scales)


def test_the_user_is_told_what_it_means_for_the_learning_rate(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trainer = distillation_trainer(tmp_path, learning_rate=1e-7, max_steps=7)
    add(trainer)
    with caplog.at_level(logging.WARNING, "effopd"):
        trainer.train()
    assert sum("times too small for this training" in message for message in caplog.messages) == 1


def test_vllm_is_sent_weights_as_often_as_in_plain_training(tmp_path: Path) -> None:
    """Candidates generate nothing, and TRL sends the weights before each step's rollouts anyway."""
    sent = {}
    for name in ("plain", "searched"):
        trainer = distillation_trainer(tmp_path / name, max_steps=4, learning_rate=1e-4)
        engine = FakeEngine(trainer)
        trainer.use_vllm, trainer.vllm_generation, trainer._last_loaded_step = True, engine, -1
        sent[name] = 0
        sync = engine.sync_weights

        def count(name: str = name, sync: Any = sync) -> None:
            sent[name] += 1
            sync()

        engine.sync_weights = count  # type: ignore[method-assign]
        callback = add(trainer) if name == "searched" else None
        trainer.train()
        assert engine.num_stale == 0
        assert engine.num_generations == 4
    assert callback is not None
    assert callback.num_accepted > 0
    assert sent == {"plain": 4, "searched": 4}


def test_an_interruption_leaves_the_weights_of_the_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = distillation_trainer(tmp_path, learning_rate=1e-4)
    add(trainer)
    score, seen = trl_hooks.StepRollouts.score, []

    def interrupted(step: Any) -> Any:
        seen.append(weights(trainer))
        if len(seen) == 3:
            raise KeyboardInterrupt
        return score(step)

    monkeypatch.setattr(trl_hooks.StepRollouts, "score", interrupted)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert not torch.equal(seen[2]["lm_head.weight"], seen[0]["lm_head.weight"])
    assert_same(weights(trainer), seen[0])


def test_candidates_that_overflow_are_refused(tmp_path: Path) -> None:
    trainer = distillation_trainer(tmp_path, max_steps=2)
    add(trainer, scales=[3e38])
    trainer.train()
    (row,) = records(tmp_path)
    assert row["candidates"][0]["score"] is None
    assert "not finite" in row["candidates"][0]["reason"]


def test_the_optimizer_steps_with_the_rate_that_was_found(tmp_path: Path) -> None:
    trainer = distillation_trainer(
        tmp_path, learning_rate=1e-5, max_steps=4, lr_scheduler_type="linear", logging_steps=1
    )
    add(trainer, passes=2)
    wanted: list[float] = []

    class Watch(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            wanted.append(trainer.optimizer.param_groups[0]["lr"])

    trainer.add_callback(Watch())
    trainer.train()
    multiples = [1.0, *(row["learning_rate_multiple"] for row in records(tmp_path))]
    factors = [1 + row["accepted_scale"] for row in records(tmp_path)]
    assert multiples[1:] == [math.prod(factors[:n]) for n in range(1, 4)]
    assert multiples[-1] >= 16
    assert wanted == pytest.approx([1e-5, 0.75e-5, 0.5e-5, 0.25e-5])  # the schedule does not notice
    logged = [row["learning_rate"] for row in trainer.state.log_history if "learning_rate" in row]
    assert logged == pytest.approx(wanted)


def test_all_passes_of_a_step_have_its_learning_rate(tmp_path: Path) -> None:
    trainer = distillation_trainer(tmp_path, max_steps=3, lr_scheduler_type="linear", warmup_steps=1)
    add(trainer, scales=(), passes=3)
    trainer.create_optimizer()
    rates: list[float] = []
    trainer.optimizer.register_step_pre_hook(lambda optimizer, *_: rates.append(optimizer.param_groups[0]["lr"]))
    trainer.train()
    assert rates == pytest.approx([0, 0, 0, 1e-3, 1e-3, 1e-3, 5e-4, 5e-4, 5e-4])


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_callback_that_was_removed_has_no_part_in_training(accumulation: int, tmp_path: Path) -> None:
    options = {"gradient_accumulation_steps": accumulation, "per_device_train_batch_size": 4, "max_steps": 3}
    once = distillation_trainer(tmp_path / "once", **options)
    add(once, passes=2)
    once.train()
    twice = distillation_trainer(tmp_path / "twice", **options)
    removed = add(twice, passes=2)
    add(twice, passes=2)
    with pytest.raises(ConfigurationError, match="removes the first"):
        twice.train()
    twice.remove_callback(EffOPDCallback)
    with pytest.warns(UserWarning, match="not added to it"):
        twice.train()
    assert removed.last is None
    assert_same(weights(once), weights(twice))
    first, second = ([row["candidates"] for row in records(tmp_path / name)] for name in ("once", "twice"))
    assert first == second


def test_after_training_the_trainer_is_as_it_was(tmp_path: Path) -> None:
    trainer = distillation_trainer(tmp_path, max_steps=2)
    callback = add(trainer, passes=2)
    trainer.train()
    assert not trainer.optimizer.optimizer._optimizer_step_pre_hooks  # of the multiple of the learning rate
    for name in ("_prepare_inputs", "_get_last_hidden_state"):
        assert getattr(trainer, name).__func__ is getattr(type(trainer), name)
    trainer.remove_callback(callback)
    last = callback.last
    trainer.train()
    assert callback.last is last


def test_an_interrupted_step_has_no_part_in_an_evaluation(tmp_path: Path) -> None:
    trainer = distillation_trainer(tmp_path, max_steps=2)
    trainer.eval_dataset = tiny_dataset(8)
    add(trainer, passes=2)

    trainer.add_callback(Interrupt())
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    losses = []
    for _ in range(2):
        set_seed(0)
        losses.append(trainer.evaluate()["eval_loss"])
        trl_hooks.unwatch_rollouts(trainer)
    assert losses[0] == losses[1]


def test_another_preset_after_an_interrupted_line_search_is_alone(tmp_path: Path) -> None:
    scores = []
    for interrupted in (False, True):
        trainer = distillation_trainer(tmp_path / str(interrupted), max_steps=1)
        if interrupted:
            add(trainer, passes=2)
            stop = Interrupt()
            trainer.add_callback(stop)
            with pytest.raises(KeyboardInterrupt):
                trainer.train()
            for callback in (EffOPDCallback, stop):
                trainer.remove_callback(callback)
            trainer.create_optimizer()
        trainer.add_callback(EffOPDCallback(trainer, preset="adaptive", num_prompts=8))
        set_seed(0)
        trainer.train()
        (row,) = records(tmp_path / str(interrupted))
        scores.append((row["baseline"], row["candidates"]))
    assert scores[0] == scores[1]


@pytest.mark.parametrize("preset", [None, "adaptive"])
def test_a_rate_found_before_an_interruption_has_no_part_in_other_training(preset: str | None, tmp_path: Path) -> None:
    moves = []
    for multiple in (1.0, 2.0**20):
        trainer = distillation_trainer(tmp_path / str(multiple), max_steps=1)
        callback, stop = add(trainer), Interrupt()
        trainer.add_callback(stop)
        with pytest.raises(KeyboardInterrupt):
            trainer.train()
        callback._rate.multiple = multiple
        for each in (callback, stop):
            trainer.remove_callback(each)
        if preset:
            trainer.add_callback(EffOPDCallback(trainer, preset=preset, num_prompts=8, schedule=(1,), scales=()))
        set_seed(0)
        trainer.train()
        moves.append(weights(trainer))
    assert_same(*moves)


@pytest.mark.parametrize("reset", [None, False])
def test_the_optimizer_starts_anew_after_a_jump_and_only_then(reset: bool | None, tmp_path: Path) -> None:
    trainer = distillation_trainer(tmp_path, learning_rate=1e-5, max_steps=5)
    add(trainer, reset_optimizer=reset)
    trainer.create_optimizer()
    steps: list[int] = []
    weight = trainer.model.lm_head.weight
    trainer.optimizer.register_step_post_hook(lambda optimizer, *_: steps.append(int(optimizer.state[weight]["step"])))
    trainer.train()
    jumps = [row["accepted_scale"] > 0 for row in records(tmp_path)]
    expected = [1]
    for jump in jumps:
        expected.append(1 if jump and reset is None else expected[-1] + 1)
    assert steps == expected
    assert any(jumps)
    if reset is None:
        assert not all(jumps)


def test_it_scores_nothing_but_the_step_under_way(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no rollouts but those of the step under way"):
        NextRolloutsValidator().scores(distillation_trainer(tmp_path), [])
