"""A candidate that does well on what W_t wrote, and writes something worse itself: what the trust region does."""

import copy
from pathlib import Path
from typing import Any

import torch
from tiny import settings
from transformers import AutoModelForCausalLM
from trl import DistillationConfig, DistillationTrainer

from effopd.extrapolation import EffOPDCallback, TeacherKLValidator, validate
from effopd.world import TaskConfig, make_dataset, teacher_dir
from extrapolation.scripted import records
from extrapolation.test_confirmation import base_that_answers_at_once


def own_kl(trainer: Any) -> float:
    """Reverse KL to the teacher on what the live weights write, in nats per completion."""
    return -validate(trainer, TeacherKLValidator(), [*make_dataset("evaluation", 256, 0, TaskConfig())], seed=1).value


def train(out: Path, model: Any, tokenizer: Any, max_kl: float | None) -> list[tuple[float, float]]:
    """Take four steps; return the KL on own completions before and after each search."""
    trainer = DistillationTrainer(
        model=copy.deepcopy(model),
        teacher_model=AutoModelForCausalLM.from_pretrained(teacher_dir(), dtype=torch.float32),
        args=DistillationConfig(
            **settings(
                out, beta=1.0, per_device_train_batch_size=32, max_steps=4, learning_rate=1e-4, max_completion_length=12
            )
        ),
        train_dataset=make_dataset("train", 256, 0, TaskConfig()),
        processing_class=tokenizer,
    )
    callback = EffOPDCallback(trainer, preset="line_search", max_kl=max_kl)
    trainer.add_callback(callback)
    search, seen = callback._extrapolate, []

    def look(step: int) -> None:
        before = own_kl(trainer)
        search(step)
        seen.append((before, own_kl(trainer)))

    callback._extrapolate = look  # type: ignore[method-assign]
    trainer.train()
    return seen


def test_the_trust_region_catches_a_candidate_that_games_the_rollouts_of_w_t(tmp_path: Path) -> None:
    model, tokenizer = base_that_answers_at_once()
    unbound = train(tmp_path / "unbound", model, tokenizer, None)
    bound = train(tmp_path / "bound", model, tokenizer, 0.1)
    gamed = [
        (candidate["score"] - row["baseline"]["score"], after - before, candidate["kl_to_current"])
        for row, (before, after) in zip(records(tmp_path / "unbound"), unbound, strict=True)
        for candidate in row["candidates"]
        if candidate["scale"] == row["accepted_scale"]
    ]
    # It gains a nat and more on what W_t wrote, loses more than three on what it writes itself, and is far from W_t.
    assert any(gain > 1 and loss > 3 and distance > 0.2 for gain, loss, distance in gamed), gamed
    for row in records(tmp_path / "bound"):
        for candidate in row["candidates"]:
            assert not candidate["accepted"] or candidate["kl_to_current"] <= 0.1
    assert any("is allowed" in c["reason"] for row in records(tmp_path / "bound") for c in row["candidates"])
    assert bound[-1][1] < unbound[-1][1] - 3
    assert all(after - before < 2 for before, after in bound)  # and without the bound it is 8 nats
