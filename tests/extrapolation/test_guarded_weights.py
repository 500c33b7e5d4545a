"""Weights from which nothing can be sampled or judged, or of which hardly any moved: no candidate of them is taken."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import (
    assert_same,
    distillation_trainer,
    tiny_dataset,
    tiny_model,
    weights,
)

from effopd import trl_hooks
from effopd.errors import DivergedError
from effopd.extrapolation import EffOPDCallback
from effopd.trl_hooks import rollouts as rollouts_module
from extrapolation.scripted import records, with_effopd


def test_finite_weights_with_logits_that_are_not_are_rejected(tmp_path: Path) -> None:
    plain = distillation_trainer(tmp_path / "plain", max_steps=1)
    plain.train()
    trainer = distillation_trainer(tmp_path / "effopd", max_steps=1)
    with_effopd(trainer, scales=[1e30], parameters=r"mlp\.(up|gate)_proj")
    trainer.train()
    (row,) = records(tmp_path / "effopd")
    assert row["candidates"][0]["score"] is None
    assert row["rollouts"] == 10  # those of W_t: from the candidate nothing is sampled
    assert_same(weights(plain), weights(trainer))


def test_completions_sampled_before_logits_are_not_finite_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = distillation_trainer(tmp_path, max_steps=1, per_device_eval_batch_size=4, per_device_train_batch_size=4)
    with_effopd(trainer, num_prompts=12)
    sample, batches = rollouts_module._sample, 0

    def diverge(*arguments: Any) -> list[list[int]]:
        nonlocal batches
        batches += 1
        if batches == 6:  # the last of the first candidate's
            raise DivergedError("diverged")
        return sample(*arguments)

    monkeypatch.setattr(rollouts_module, "_sample", diverge)
    trainer.train()
    (row,) = records(tmp_path)
    assert row["candidates"][0]["score"] is None
    assert row["rollouts"] == 12 + 8
    assert 12 + 8 <= row["generated_tokens"] <= 6 * (12 + 8)


def test_without_a_score_of_w_t_nothing_is_tried_and_it_is_said_once(tmp_path: Path) -> None:
    trainer = distillation_trainer(tmp_path, max_steps=2)
    callback = EffOPDCallback(trainer, lambda completions, **kwargs: [math.nan] * len(completions), num_prompts=10)
    trainer.add_callback(callback)
    with pytest.warns(UserWarning, match="score of W_t is nan, so no candidate was tried") as warned:
        trainer.train()
    assert len([each for each in warned if "W_t" in str(each.message)]) == 1
    rows = records(tmp_path)
    assert [(row["baseline"]["score"], row["candidates"], row["rollouts"]) for row in rows] == [(None, [], 10)] * 2


def test_sampling_from_logits_that_are_not_finite_is_an_error_of_ours(tmp_path: Path) -> None:
    trainer = distillation_trainer(tmp_path)
    with torch.no_grad():
        trainer.model.lm_head.weight[3] = float("inf")
    with pytest.raises(DivergedError, match="training has diverged"):
        trl_hooks.generate(trainer, list(tiny_dataset(8)), seed=0)


def test_bf16_weights_of_which_hardly_any_moved_are_not_extrapolated(tmp_path: Path) -> None:
    trainer = distillation_trainer(tmp_path, max_steps=1, learning_rate=1e-6, model=tiny_model(0, torch.bfloat16))
    with_effopd(trainer)
    with pytest.warns(UserWarning, match="Nothing is extrapolated here"):
        trainer.train()
    (row,) = records(tmp_path)
    assert 0 < row["changed_fraction"] < 0.1
    assert row["skipped"].startswith("only ")
    assert (row["accepted_scale"], row["rollouts"], row["candidates"]) == (0, 0, [])


def test_the_share_below_which_rounding_decides() -> None:
    """What the thresholds claim: the cosine between a small update and what is left of it in bf16."""
    generator = torch.Generator().manual_seed(0)
    weight = (0.02 * torch.randn(500_000, generator=generator)).bfloat16().float()
    for std in torch.logspace(-6, -3, 13).tolist():
        update = std * torch.randn(weight.shape, generator=generator)
        left = (weight + update).bfloat16().float() - weight
        cosine = torch.nn.functional.cosine_similarity(left, update, dim=0).item()
        changed = (left != 0).float().mean().item()
        assert cosine < 0.5 or changed > 0.1
        assert cosine < 0.9 or changed > 0.5
