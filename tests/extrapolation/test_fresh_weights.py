"""After a change of the weights, rollout engines take them again, and rollouts of the old weights are dropped."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import distillation_trainer, grpo_trainer, weights

from effopd import trl_hooks
from extrapolation.scripted import script, with_effopd


def every_other(completions: list[str], **kwargs: Any) -> list[float]:
    return [float(index % 2) for index in range(len(completions))]


@pytest.mark.parametrize("acceptance", ["paper", "reference"])
def test_every_change_of_the_weights_reaches_generation(acceptance: str, tmp_path: Path) -> None:
    """With vLLM, weights are sent again only when `_last_loaded_step` differs from the step number.

    TRL's own rule decides here when a fake engine is sent weights; the test is that it never samples from others than
    the live ones: neither for a candidate, nor for the rollouts after an accepted or a rejected one.
    """
    trainer = distillation_trainer(tmp_path, max_steps=4)
    engine = FakeEngine(trainer)
    trainer.use_vllm, trainer.vllm_generation, trainer._last_loaded_step = True, engine, -1
    callback = with_effopd(trainer, reward=every_other, acceptance=acceptance)
    trainer.train()
    assert callback.num_accepted == (3 if acceptance == "paper" else 0)  # the means are always the same
    assert engine.num_stale == 0
    assert engine.num_generations > 4 + 3 * 2


def test_the_trap_is_real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without `publish_weights` the engine of the test above does sample from stale weights."""
    monkeypatch.setattr(trl_hooks, "publish_weights", lambda trainer: None)
    trainer = distillation_trainer(tmp_path, max_steps=4)
    engine = FakeEngine(trainer)
    trainer.use_vllm, trainer.vllm_generation, trainer._last_loaded_step = True, engine, -1
    with_effopd(trainer, reward=every_other)
    trainer.train()
    assert engine.num_stale > 0


class FakeEngine:
    """A rollout engine with weights of its own, as vLLM has, that notices when they are not the live ones."""

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        self.mode = "server"
        self.held: dict[str, torch.Tensor] = {}
        self.num_stale = self.num_generations = 0

    def sync_weights(self) -> None:
        self.held = weights(self.trainer)

    def generate(self, prompts: list[list[int]], **kwargs: Any) -> tuple[Any, list[list[int]], Any, Any]:
        self.num_generations += 1
        live = weights(self.trainer)
        self.num_stale += any(not torch.equal(live[name], self.held[name]) for name in live)
        return None, [[2 + (sum(ids) + i) % 10, 1] for i, ids in enumerate(prompts)], None, None


def test_grpo_does_not_train_on_rollouts_made_before_a_jump(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = grpo_trainer(tmp_path, steps_per_generation=4, max_steps=4)
    with_effopd(trainer, schedule=[1])
    script(monkeypatch, 0.1, 0.2, 0.1)
    sampled_at: list[int] = []
    generate = trainer._generate_and_score_completions

    def counting(inputs: Any) -> Any:
        sampled_at.append(trainer.state.global_step)
        return generate(inputs)

    trainer._generate_and_score_completions = counting
    trainer.train()
    assert sampled_at[:2] == [0, 1]  # step 2 samples anew, though 3 more steps were buffered
