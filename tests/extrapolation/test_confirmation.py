"""`shared_kl` judges candidates by what W_t wrote, which misleads where a jump leads into other text: the guard."""

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import distillation_trainer, settings
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DistillationConfig, DistillationTrainer

from effopd.extrapolation import EffOPDCallback, Score, search
from effopd.world import TaskConfig, base_dir, make_dataset, teacher_dir
from effopd.world.pretrain import make_batch
from extrapolation.scripted import records, with_effopd


def scripted(scores: dict[float, float]) -> Any:
    return lambda scale: Score(scores[scale])


def test_the_largest_scale_that_is_confirmed_stands() -> None:
    shared = scripted({0: -5.0, 1: -4.0, 2: -3.0, 4: -2.0, 8: -2.5})
    own = {4.0: -6.0, 2.0: -5.0, 1.0: -4.5}
    asked: list[float] = []

    def confirm(scale: float) -> Score:
        asked.append(scale)
        return Score(own[scale])

    result = search(shared, (1.0, 2.0, 4.0, 8.0), "paper", confirm)
    assert result.accepted_scale == 2
    assert asked == [4, 2]  # from the largest down, and no further than needed
    assert [candidate.accepted for candidate in result.candidates] == [True, True, False, False]
    assert result.candidates[2].reason == "-2 >= -3; on completions of its own -6 not >= -5"
    assert [c.confirmation.value if c.confirmation else None for c in result.candidates] == [None, -5, -6, None]


@pytest.mark.parametrize(("acceptance", "accepted"), [("paper", 1.0), ("reference", 0.0)])
def test_a_tie_is_confirmed_as_the_rule_has_it(acceptance: Any, accepted: float) -> None:
    result = search(scripted({0: -5.0, 1: -4.0}), (1.0,), acceptance, lambda scale: Score(-5.0))
    assert result.accepted_scale == accepted


@pytest.mark.parametrize("own", [float("nan"), -9.0])
def test_nothing_stands_where_nothing_is_confirmed(own: float) -> None:
    result = search(scripted({0: -5.0, 1: -4.0, 2: -3.0}), (1.0, 2.0), "paper", lambda scale: Score(own))
    assert result.accepted_scale == 0
    assert not any(candidate.accepted for candidate in result.candidates)


def test_the_confirmed_weights_are_those_that_are_left(tmp_path: Path) -> None:
    trainer = distillation_trainer(tmp_path, learning_rate=1e-4)
    with_effopd(trainer, preset="adaptive", num_prompts=8)
    trainer.train()
    for row in records(tmp_path):
        confirmed = [c for c in row["candidates"] if c["confirmation"] is not None]
        assert row["rollouts"] == 8 * (1 + len(confirmed))
        standing = [c for c in confirmed if c["accepted"]]
        assert [c["scale"] for c in standing] == [row["accepted_scale"]] * (row["accepted_scale"] > 0)
        for candidate in standing:
            assert candidate["confirmation"]["score"] >= row["baseline"]["score"]


def base_that_answers_at_once() -> Any:
    """The world's base, taught to answer at once nearly always, and step by step with nothing but zeros.

    The teacher answers step by step. Whoever moves there, without having learnt to calculate again, moves away from it.
    """
    model = AutoModelForCausalLM.from_pretrained(base_dir(), dtype=torch.float32)
    tokenizer, rng = AutoTokenizer.from_pretrained(base_dir()), random.Random(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(30):
        input_ids, labels = make_batch(tokenizer, TaskConfig(step_by_step_share=0.0), 32, rng)
        prompts = [tokenizer.decode(ids[:12]) for ids in input_ids]
        zeros = tokenizer([f"{prompt}0,0,0,0,0;" for prompt in prompts], return_tensors="pt")["input_ids"]
        zero_labels = zeros.clone()
        zero_labels[:, :13] = -100  # the prompt, and the digit that a step-by-step answer begins with
        for ids, targets in ((input_ids, labels), (zeros, zero_labels)):
            model(input_ids=ids, labels=targets).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, tokenizer


def test_a_jump_into_other_text_that_only_looks_better_is_refused(tmp_path: Path) -> None:
    model, tokenizer = base_that_answers_at_once()
    overrides = {"per_device_train_batch_size": 32, "max_steps": 3, "learning_rate": 1e-4, "max_completion_length": 12}
    trainer = DistillationTrainer(
        model=model,
        teacher_model=AutoModelForCausalLM.from_pretrained(teacher_dir(), dtype=torch.float32),
        args=DistillationConfig(**settings(tmp_path, beta=1.0, **overrides)),
        train_dataset=make_dataset("train", 256, 0, TaskConfig()),
        processing_class=tokenizer,
    )
    trainer.add_callback(EffOPDCallback(trainer, preset="adaptive"))
    trainer.train()
    refused = []
    for row in records(tmp_path):
        for candidate in row["candidates"]:
            if candidate["confirmation"] is None:
                continue
            own, shared, baseline = candidate["confirmation"]["score"], candidate["score"], row["baseline"]["score"]
            assert candidate["accepted"] == (own >= baseline)
            if not candidate["accepted"]:
                refused.append((shared - baseline, own - baseline))
    # On what W_t wrote it gains a nat and more, on what it writes itself it loses as much.
    assert any(seeming > 1 and true < -1 for seeming, true in refused), refused
