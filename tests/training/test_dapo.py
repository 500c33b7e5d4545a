"""DAPO's ingredients, each by itself: clip-higher, the loss over tokens, overlong shaping, dynamic sampling."""

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from small_rl_runs import PLAIN, rl_world

from effopd.training import RLTrainer, build_trainer
from effopd.trl_hooks import dynamic_sampling


def dapo(out: Path, **config: Any) -> RLTrainer:
    trainer = build_trainer(*rl_world(out, PLAIN, method="dapo", **config))[0]
    assert isinstance(trainer, RLTrainer)
    return trainer


def sample(trainer: RLTrainer) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """What the trainer makes of its first generation batch: the rows in it, and the tensors."""
    rows = next(iter(trainer.get_train_dataloader()))
    trainer.model.train()
    return rows, trainer._generate_and_score_completions(rows)


def test_the_loss_clips_higher_and_averages_over_tokens(tmp_path: Path) -> None:
    """Against a plain computation, on rollouts that an earlier policy sampled."""
    trainer = dapo(tmp_path)
    _, batch = sample(trainer)
    assert batch["advantages"].view(2, 4).std(1).gt(0).all()
    trainer.current_gradient_accumulation_steps = 2
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
    attention = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)
    mask, length = batch["completion_mask"], batch["completion_ids"].shape[1]
    assert len(set(mask.sum(1).tolist())) > 1  # else the mean over sequences is that over tokens
    with torch.no_grad():
        logits = trainer.model(ids, attention_mask=attention).logits[:, -length - 1 : -1]
        logprobs = logits.log_softmax(-1).gather(-1, batch["completion_ids"][..., None])[..., 0]
    ratio = torch.tensor([0.7, 0.9, 1.25, 1.4]).repeat(logprobs.shape)[:, :length]
    batch["old_per_token_logps"] = logprobs - ratio.log()
    found = trainer._compute_loss(trainer.model, batch)
    advantages = batch["advantages"][:, None]
    per_token = -torch.min(ratio * advantages, ratio.clamp(0.8, 1.28) * advantages)
    assert ((ratio == 1.25) & (advantages > 0) & mask.bool()).any()
    # In one micro-batch there is the whole step here, so that the sum over its two is taken at once.
    assert found.item() == pytest.approx(((per_token * mask).sum() / mask.sum()).item(), rel=1e-4)


def test_long_completions_are_punished(tmp_path: Path) -> None:
    trainer = dapo(tmp_path, overlong_buffer=4)
    assert [function.__name__ for function in trainer.reward_funcs] == [
        "world_reward",
        "soft_overlong_punishment_reward",
    ]
    lengths = [1, 8, 9, 10, 11, 12]
    found = trainer.reward_funcs[1](completion_ids=[[0] * length for length in lengths])
    assert found == [0.0, 0.0, -0.25, -0.5, -0.75, -1.0]
    assert len(dapo(tmp_path, overlong_buffer=0).reward_funcs) == 1
    # Accuracy and validation go by the reward alone.
    evaluated = {"evaluation_dataset_name": "world:evaluation", "num_evaluation_examples": 2}
    trainer, metrics = build_trainer(*rl_world(tmp_path, evaluated, method="dapo"))
    assert [function.__name__ for function in trainer._accuracy.functions] == ["world_reward"]
    assert [function.__name__ for function in metrics.effopd.validator.functions] == ["world_reward"]


class RewardPrompts:
    """Rewards one sample of each group whose prompt is in a set; the samples of all others are rewarded alike."""

    __name__ = "reward_prompts"

    def __init__(self, useful: Any) -> None:
        self.useful, self.seen = useful, list[str]()

    def __call__(self, prompts: list[str], **kwargs: Any) -> list[float]:
        self.seen += prompts
        return [float(self.useful(prompt) and i % 4 == 0) for i, prompt in enumerate(prompts)]


def test_prompts_that_teach_nothing_are_replaced(tmp_path: Path) -> None:
    trainer = dapo(tmp_path, overlong_buffer=12, dynamic_sampling_rounds=50)
    useful = set(trainer.train_dataset["prompt"][1::3])
    reward = RewardPrompts(lambda prompt: prompt in useful)
    trainer.reward_funcs[0] = reward
    first = next(iter(trainer.get_train_dataloader()))
    assert {row["prompt"] for row in first} - useful
    rows, batch = sample(trainer)
    assert len(rows) == 8
    assert {row["prompt"] for row in rows} <= useful
    # Shaping makes the rewards of a group differ, and does not make it worth keeping.
    assert set(reward.seen) - useful
    assert trainer.meter.rollouts == len(reward.seen) > 8
    # The tensors are those of the prompts that were drawn.
    decoded = trainer.processing_class.batch_decode(batch["prompt_ids"], skip_special_tokens=True)
    assert [text.replace(" ", "") for text in decoded] == [row["prompt"].replace(" ", "") for row in rows]
    lengths = batch["completion_mask"].sum(1).tolist()
    shaping = trainer.reward_funcs[1](completion_ids=[[0] * length for length in lengths])
    rewards = torch.tensor([1.0, 0, 0, 0] * 2) + torch.tensor(shaping)
    groups = rewards.view(2, 4)
    expected = (groups - groups.mean(1, keepdim=True)) / (groups.std(1, keepdim=True) + 1e-4)
    torch.testing.assert_close(batch["advantages"], expected.flatten(), rtol=1e-4, atol=1e-5)
    assert trainer.meter.generated_tokens > int(batch["completion_mask"].sum())


def test_it_stops_at_a_bound(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trainer = dapo(tmp_path, overlong_buffer=12, dynamic_sampling_rounds=3)
    trainer.reward_funcs[0] = reward = RewardPrompts(lambda prompt: False)
    with caplog.at_level(logging.WARNING):
        rows, batch = sample(trainer)
    assert "after 3 rounds of dynamic sampling, prompts are left" in caplog.text
    assert trainer.meter.rollouts == len(reward.seen) == 4 * 8
    assert rows == next(iter(trainer.get_train_dataloader()))  # the first ones stay
    assert batch["completion_mask"].sum(1).unique().numel() > 1  # shaping tells samples apart by their lengths
    assert batch["advantages"].abs().max() < 1e-3


def test_without_need_nothing_is_replaced(tmp_path: Path) -> None:
    trainer = dapo(tmp_path, dynamic_sampling_rounds=3)
    trainer.reward_funcs[0] = RewardPrompts(lambda prompt: True)
    sample(trainer)
    assert trainer.meter.rollouts == 8
    none = dapo(tmp_path, dynamic_sampling_rounds=0)
    none.reward_funcs[0] = RewardPrompts(lambda prompt: False)
    sample(none)
    assert none.meter.rollouts == 8


def test_what_rewards_log_of_completions_is_kept_for_those_that_are_trained_on(tmp_path: Path) -> None:
    def reward(prompts: list[str], completions: list[str], log_extra: Any, **kwargs: Any) -> list[float]:
        log_extra("prompt again", prompts)
        return [float(prompt in useful and i % 4 == 0) for i, prompt in enumerate(prompts)]

    trainer = dapo(tmp_path, dynamic_sampling_rounds=50, log_completions=True)
    useful = set(trainer.train_dataset["prompt"][1::3])
    trainer.reward_funcs[0] = reward
    rows, _ = sample(trainer)
    assert list(trainer._logs["extra"]["prompt again"]) == [row["prompt"] for row in rows]


def test_each_process_takes_the_rewards_of_its_own_rollouts() -> None:
    everywhere = torch.arange(8.0).view(4, 2)  # two functions on two rollouts of each of two processes
    trainer = SimpleNamespace(
        accelerator=SimpleNamespace(process_index=1),
        _calculate_rewards=lambda *arguments: everywhere,
        _pending_extra_logs={"said": ["a", "b"]},
    )
    rewards, columns = dynamic_sampling._rewards(trainer, [{}, {}], ["", ""], ([], [], [], []))
    assert rewards.tolist() == [[4, 5], [6, 7]] and columns == {"said": ["a", "b"]}
    assert not trainer._pending_extra_logs
