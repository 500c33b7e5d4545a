"""`OPDTrainer` under the line search: what is metered, and what the `sampled` estimator makes of moved weights."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import weights
from training.small_runs import world
from training.test_trainer import opd_trainer

from effopd.extrapolation import EffOPDCallback
from effopd.training import train
from effopd.training.metrics import MetricsCallback
from effopd.trl_hooks import SAMPLING_LOGPROBS


@pytest.mark.parametrize("estimator", ["full_vocab", "sampled"])
def test_further_passes_are_not_metered(estimator: str, tmp_path: Path) -> None:
    meters = []
    for passes in (1, 3):
        trainer = opd_trainer(tmp_path / str(passes), estimator=estimator, max_steps=1, gradient_accumulation_steps=2)
        trainer.add_callback(EffOPDCallback(trainer, preset="line_search", num_prompts=8, passes=passes))
        trainer.train()
        meters.append(trainer.meter)
    for name in ("loss", "reverse_kl", "rollouts", "generated_tokens", "teacher_tokens"):
        assert getattr(meters[0], name) == getattr(meters[1], name) > 0


@pytest.mark.parametrize("estimator", ["full_vocab", "sampled"])
@pytest.mark.parametrize("passes", [1, 3])
def test_the_time_of_the_teacher_is_the_teachers(
    estimator: str, passes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It reads for search and training together. The clock is one that only its reading moves."""
    trainer = opd_trainer(tmp_path, estimator=estimator, max_steps=3, gradient_accumulation_steps=2)
    callback = EffOPDCallback(trainer, preset="line_search", num_prompts=8, passes=passes)
    trainer.add_callback(callback)
    metrics = MetricsCallback(trainer, callback)
    trainer.add_callback(metrics)
    reads: list[int] = []
    trainer.teacher_model.model.register_forward_hook(lambda *args: reads.append(1))
    monkeypatch.setattr(time, "perf_counter", lambda: float(len(reads)))
    trainer.train()
    assert len(reads) == 6
    assert metrics.row is not None
    assert metrics.row["seconds"] == dict.fromkeys(metrics.row["seconds"], 0.0) | {"teacher": 6.0}


def token_logprobs(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    ids, mask = (torch.cat([batch[f"prompt_{name}"], batch[f"completion_{name}"]], 1) for name in ("ids", "mask"))
    logits = model(ids, attention_mask=mask).logits[:, batch["prompt_ids"].size(1) - 1 : -1]
    logprobs: torch.Tensor = logits.log_softmax(-1).gather(-1, batch["completion_ids"][..., None])[..., 0]
    return logprobs


def test_after_a_jump_the_sampled_estimator_weighs_tokens_by_their_importance(tmp_path: Path) -> None:
    trainer = opd_trainer(tmp_path, estimator="sampled", max_steps=2, learning_rate=1e-4, gradient_accumulation_steps=2)
    callback = EffOPDCallback(trainer, preset="line_search", num_prompts=8, passes=1, max_kl=None)
    trainer.add_callback(callback)
    sampled_by: list[torch.Tensor] = []
    search, loss_of = callback._extrapolate, trainer.compute_loss

    def look(step: int) -> None:
        with torch.no_grad():
            sampled_by.extend(token_logprobs(trainer.model, batch) for batch in trainer._buffered_inputs)
        search(step)

    def compare(model: Any, batch: dict[str, Any], **kwargs: Any) -> torch.Tensor:
        loss: torch.Tensor = loss_of(model, batch, **kwargs)
        if model.training and sampled_by:
            old, mask = sampled_by.pop(0), batch["completion_mask"]
            torch.testing.assert_close(batch[SAMPLING_LOGPROBS] * mask, old * mask)
            (ours,) = torch.autograd.grad(loss, trainer.model.lm_head.weight, retain_graph=True)
            student = token_logprobs(trainer.model, batch)
            with torch.no_grad():
                teacher = token_logprobs(trainer.teacher_model, batch)
            ratio = (student - old).exp()
            assert not torch.allclose(ratio * mask, mask.float(), atol=1e-3)
            by_hand = -(ratio * (teacher - student).detach() * mask).sum() / batch["num_items_in_batch"]
            (expected,) = torch.autograd.grad(by_hand, trainer.model.lm_head.weight)
            torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-6)
        return loss

    callback._extrapolate = look  # type: ignore[method-assign]
    trainer.compute_loss = compare  # type: ignore[method-assign]
    trainer.train()
    assert callback.last is not None
    assert callback.last["accepted_scale"] > 0
    assert not sampled_by


def test_a_run_notes_the_accepted_scale_at_the_step_that_it_was_found_for(tmp_path: Path) -> None:
    arguments, config = world(tmp_path, {"acceleration": "line_search", "extrapolation": {"passes": 2}})
    rows = train(arguments, config)
    found = [json.loads(line) for line in (tmp_path / "extrapolations.jsonl").read_text().splitlines()]
    assert [row["step"] for row in found] == [2, 3, 4, 5, 6]
    assert [row["accepted_scale"] for row in rows] == [None, *(row["accepted_scale"] for row in found)]
    assert [row["rollouts"] for row in rows] == [16 * step for step in range(1, 7)]
    assert [row["optimizer_steps"] for row in rows] == [2 * step for step in range(1, 7)]
    assert all(row["teacher_tokens"] == row["generated_tokens"] for row in rows)
    assert rows[-1]["validation_rollouts"] == 0
    assert rows[-1]["seconds"]["validation"] > 0


def test_a_jump_changes_the_weights_of_a_run(tmp_path: Path) -> None:
    """That is, the line search is wired into runs: without it the same run ends elsewhere."""
    ended = []
    for name, settings in (("none", {"acceleration": "none"}), ("ls", {"acceleration": "line_search"})):
        trainers: list[Any] = []
        arguments, config = world(tmp_path / name, settings | {"extrapolation": {}}, max_steps=3)
        train(arguments, config, lambda trainer, _, trainers=trainers: trainers.append(trainer) or [])
        ended.append(weights(trainers[0]))
    assert not torch.equal(ended[0]["lm_head.weight"], ended[1]["lm_head.weight"])
