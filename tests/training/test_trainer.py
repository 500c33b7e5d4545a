"""OPDTrainer: estimators against plain computations, metering, evaluation."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import assert_same, contains_answer, distillation_trainer, settings, tiny_dataset, tiny_model, weights

from effopd.errors import ConfigurationError
from effopd.training import OPDConfig, OPDTrainer
from effopd.world.tokenizer import make_tokenizer


def opd_trainer(out: Path, evaluation: bool = False, **overrides: Any) -> OPDTrainer:
    return OPDTrainer(
        model=tiny_model(0),
        teacher_model=tiny_model(1),
        args=OPDConfig(**settings(out, **overrides)),
        train_dataset=tiny_dataset(),
        eval_dataset=tiny_dataset(20) if evaluation else None,
        processing_class=make_tokenizer(),
        evaluation_reward=contains_answer if evaluation else None,
    )


def test_full_vocab_trains_as_plain_trl_to_the_bit(tmp_path: Path) -> None:
    plain = distillation_trainer(tmp_path / "plain")
    plain.train()
    ours = opd_trainer(tmp_path / "ours")
    ours.train()
    assert_same(weights(plain), weights(ours))


def one_batch(trainer: OPDTrainer) -> dict[str, torch.Tensor]:
    """Rollouts as the trainer makes them, with completions of different lengths."""
    trainer.model.train()
    return trainer._prepare_inputs([*tiny_dataset(8)])


@pytest.mark.parametrize("estimator", ["full_vocab", "sampled"])
def test_loss_and_reverse_kl_are_those_of_a_plain_computation(estimator: str, tmp_path: Path) -> None:
    trainer = opd_trainer(tmp_path, estimator=estimator, temperature=1.3)
    inputs = one_batch(trainer)
    trainer.compute_loss(trainer.model, inputs).backward()
    gradients = {name: p.grad.clone() for name, p in trainer.model.named_parameters() if p.grad is not None}
    trainer.model.zero_grad()
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
    mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1)
    length = inputs["completion_ids"].shape[1]
    student, teacher = (
        (model(ids, attention_mask=mask).logits[:, -length - 1 : -1] / 1.3).log_softmax(-1)
        for model in (trainer.model, trainer.teacher_model)
    )
    completion_mask = inputs["completion_mask"]
    if estimator == "full_vocab":
        per_token = (student.exp() * (student - teacher)).sum(-1)
        loss = reverse_kl = (per_token * completion_mask).sum() / completion_mask.sum()
    else:
        tokens = inputs["completion_ids"][..., None]
        log_ratio = (student.gather(-1, tokens) - teacher.gather(-1, tokens))[..., 0]
        chosen = student.gather(-1, tokens)[..., 0]
        loss = (log_ratio.detach() * chosen * completion_mask).sum() / completion_mask.sum()
        reverse_kl = (log_ratio * completion_mask).sum() / completion_mask.sum()
    loss.backward()
    assert trainer.meter.reverse_kl == pytest.approx(reverse_kl.item(), rel=1e-4)
    assert trainer.meter.teacher_tokens == completion_mask.sum()
    for name, parameter in trainer.model.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("estimator", ["full_vocab", "sampled"])
def test_training_lowers_the_reverse_kl(estimator: str, tmp_path: Path) -> None:
    trainer = opd_trainer(
        tmp_path, estimator=estimator, max_steps=40, learning_rate=3e-3, per_device_train_batch_size=32
    )
    seen = []
    step = trainer.training_step

    def metered(*args: Any, **kwargs: Any) -> torch.Tensor:
        trainer.meter.reverse_kl = 0.0
        loss = step(*args, **kwargs)
        seen.append(trainer.meter.reverse_kl)
        return loss

    trainer.training_step = metered  # type: ignore[method-assign]
    trainer.train()
    assert sum(seen[-5:]) < 0.7 * sum(seen[:5])


def test_reverse_kl_is_metered_for_another_beta(tmp_path: Path) -> None:
    forward, reverse = opd_trainer(tmp_path, beta=0.0), opd_trainer(tmp_path)
    inputs = one_batch(forward)
    losses = [trainer.compute_loss(trainer.model, inputs).item() for trainer in (forward, reverse)]
    assert losses[0] != pytest.approx(losses[1], rel=1e-3)
    assert forward.meter.reverse_kl == pytest.approx(reverse.meter.reverse_kl, rel=1e-5)


def test_gradient_accumulation_meters_the_whole_step(tmp_path: Path) -> None:
    trainer = opd_trainer(tmp_path, per_device_train_batch_size=4, gradient_accumulation_steps=2, max_steps=1)
    trainer.train()
    assert trainer.meter.rollouts == 8
    examples, completion_ids = trainer.step_rollouts
    assert len(examples) == len(completion_ids) == 8
    assert trainer.meter.generated_tokens == sum(map(len, completion_ids)) == trainer.meter.teacher_tokens
    assert trainer.meter.loss == pytest.approx(trainer.meter.reverse_kl, rel=1e-5)
    assert trainer.meter.generation_seconds > 0
    assert trainer.meter.teacher_seconds > 0


def test_evaluation_is_accuracy_and_leaves_training_alone(tmp_path: Path) -> None:
    plain = opd_trainer(tmp_path / "plain")
    plain.train()
    trainer = opd_trainer(tmp_path / "evaluated", evaluation=True, eval_strategy="steps", eval_steps=2)
    trainer.train()
    assert_same(weights(plain), weights(trainer))
    logged = [entry for entry in trainer.state.log_history if "eval_accuracy" in entry]
    assert [entry["step"] for entry in logged] == [2, 4, 6]
    assert all(0 <= entry["eval_accuracy"] <= 1 for entry in logged)
    assert trainer.evaluate()["eval_accuracy"] == logged[-1]["eval_accuracy"]
    assert trainer.meter.rollouts == 6 * 8  # of training alone
    assert trainer.evaluation_seconds > 0


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"estimator": "exact"}, "expected one of full_vocab, sampled"),
        ({"estimator": "sampled", "beta": 0.5}, "no effect"),
    ],
)
def test_bad_configs(overrides: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=message):
        OPDConfig(**settings(tmp_path, **overrides))
