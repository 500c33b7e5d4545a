"""ExOPD: its objective against plain computations, lambda = 1 against OPD, accounting, refusals, resuming."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small_runs import world
from test_run import Interrupt, without_seconds
from test_trainer import one_batch
from tiny import settings, tiny_dataset, tiny_model

from effopd.errors import ConfigurationError
from effopd.objectives import exopd_divergence, exopd_target
from effopd.training import OPDConfig, OPDTrainer, build_trainer, train
from effopd.world.tokenizer import make_tokenizer

ESTIMATORS = pytest.mark.parametrize("estimator", ["full_vocab", "sampled"])


def exopd_trainer(out: Path, **overrides: Any) -> OPDTrainer:
    return OPDTrainer(
        model=tiny_model(0),
        teacher_model=tiny_model(1),
        reference_model=tiny_model(2),
        args=OPDConfig(**settings(out, method="exopd", **overrides)),
        train_dataset=tiny_dataset(),
        processing_class=make_tokenizer(),
    )


@ESTIMATORS
def test_loss_and_gradient_are_those_of_a_plain_computation(estimator: str, tmp_path: Path) -> None:
    trainer = exopd_trainer(tmp_path, estimator=estimator, temperature=1.3, exopd_lambda=1.5)
    inputs = one_batch(trainer)
    trainer.meter.reverse_kl = 0.0
    found = trainer.compute_loss(trainer.model, inputs)
    found.backward()
    assert all(parameter.grad is None for parameter in trainer.reference_model.parameters())
    gradients = {name: p.grad.clone() for name, p in trainer.model.named_parameters() if p.grad is not None}
    trainer.model.zero_grad()
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
    attention = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1)
    length = inputs["completion_ids"].shape[1]
    student, teacher, reference = (
        (model(ids, attention_mask=attention).logits[:, -length - 1 : -1] / 1.3).log_softmax(-1)
        for model in (trainer.model, trainer.teacher_model, trainer.reference_model)
    )
    # As its authors write it, log-ratio by log-ratio.
    log_ratio = (student - reference) - 1.5 * (teacher - reference)
    mask, tokens = inputs["completion_mask"], inputs["completion_ids"][..., None]
    if estimator == "full_vocab":
        per_token, plain = (student.exp() * log_ratio).sum(-1), (student.exp() * (student - teacher)).sum(-1)
    else:
        per_token = log_ratio.detach().gather(-1, tokens)[..., 0] * student.gather(-1, tokens)[..., 0]
        plain = (student - teacher).gather(-1, tokens)[..., 0]
    loss = (per_token * mask).sum() / mask.sum()
    loss.backward()
    if estimator == "full_vocab":
        assert found.item() == pytest.approx(loss.item(), rel=1e-4)
    assert trainer.meter.reverse_kl == pytest.approx(((plain * mask).sum() / mask.sum()).item(), rel=1e-4)
    assert trainer.meter.reference_tokens == trainer.meter.teacher_tokens == mask.sum()
    assert trainer.meter.reference_seconds > 0
    for name, parameter in trainer.model.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-3, atol=1e-6)


def test_the_two_forms_of_the_objective_agree() -> None:
    torch.manual_seed(0)
    student, teacher, reference = torch.randn(3, 5, 7, dtype=torch.float64).log_softmax(-1)

    def expected(other: torch.Tensor) -> torch.Tensor:
        return (student.exp() * (student - other)).sum(-1)

    for scale in (0.5, 1.0, 2.5):
        divergence = exopd_divergence(expected(teacher), expected(reference), scale)
        torch.testing.assert_close(divergence, expected(exopd_target(teacher, reference, scale)))


@ESTIMATORS
def test_lambda_1_is_opd_to_the_bit_and_loads_no_reference(estimator: str, tmp_path: Path) -> None:
    plain = train(*world(tmp_path / "opd", estimator=estimator, max_steps=3))
    config = {"estimator": estimator, "max_steps": 3, "method": "exopd", "exopd_lambda": 1.0}
    assert build_trainer(*world(tmp_path / "none", **config))[0].reference_model is None
    rows = train(*world(tmp_path / "exopd", **config))
    assert [*map(without_seconds, rows)] == [*map(without_seconds, plain)]
    left, right = (load_file(tmp_path / name / "model.safetensors") for name in ("opd", "exopd"))
    assert all(left[name].equal(right[name]) for name in left)


@ESTIMATORS
def test_a_run_continues_to_the_same_end_and_counts_the_reference(estimator: str, tmp_path: Path) -> None:
    config = {"method": "exopd", "estimator": estimator}
    whole = train(*world(tmp_path / "whole", **config))
    with pytest.raises(KeyboardInterrupt):
        train(*world(tmp_path / "cut", **config), callbacks=lambda trainer, metrics: [Interrupt(5)])
    continued = train(*world(tmp_path / "cut", **config))
    assert [*map(without_seconds, continued)] == [*map(without_seconds, whole)]
    left, right = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "cut"))
    assert all(left[name].equal(right[name]) for name in left)
    last = continued[-1]
    assert last["reference_tokens"] == last["teacher_tokens"] > 0
    assert 0 < last["seconds"]["reference"] < last["seconds_total"]
    opd = train(*world(tmp_path / "opd", estimator=estimator))[-1]
    assert opd["reference_tokens"] == opd["seconds"]["reference"] == 0
    assert opd["reverse_kl"] != last["reverse_kl"]


def test_the_reference_is_the_start_of_the_student_unless_another_is_named(tmp_path: Path) -> None:
    trainer, _ = build_trainer(*world(tmp_path, method="exopd"))
    assert trainer.args.exopd_lambda == 1.25
    pairs = zip(trainer.model.parameters(), trainer.reference_model.parameters(), strict=True)
    assert all(one.equal(other) and one is not other for one, other in pairs)
    named = {"reference_model_name_or_path": "world:teacher"}
    trainer, _ = build_trainer(*world(tmp_path, named, method="exopd"))
    pairs = zip(trainer.teacher_model.parameters(), trainer.reference_model.parameters(), strict=True)
    assert all(one.equal(other) for one, other in pairs)


@pytest.mark.parametrize(
    ("arguments", "config", "message"),
    [
        ({}, {"method": "sft"}, "expected one of opd, exopd"),
        ({}, {"exopd_lambda": 1.5}, "exopd_lambda=1.5 has no effect with method='opd'"),
        ({}, {"method": "exopd", "exopd_lambda": 0.0}, "exopd_lambda: got 0.0"),
        ({}, {"method": "exopd", "beta": 0.5}, "another divergence, for which it is not defined"),
        ({"reference_model_name_or_path": "world:base"}, {}, "has no effect with method='opd'"),
        (
            {"reference_model_name_or_path": "world:base"},
            {"method": "exopd", "exopd_lambda": 1.0},
            "no effect with method='exopd' and exopd_lambda=1",
        ),
        ({"acceleration": "adaptive"}, {"method": "exopd"}, "beyond which method='exopd' trains"),
        (
            {"acceleration": "line_search", "extrapolation": None},
            {"method": "exopd"},
            r"divergence from the teacher \(next_rollouts\)",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(
    arguments: dict[str, Any], config: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        build_trainer(*world(tmp_path / "out", arguments, **config))


def test_a_trainer_that_lacks_its_reference_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="got one as reference_model"):
        exopd_trainer(tmp_path, exopd_lambda=1.0)
