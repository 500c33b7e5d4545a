"""The critic of PPO: its values, its gradient and its steps against plain computations, and its state."""

from pathlib import Path
from typing import Any

import pytest
import torch
from small_rl_runs import PLAIN, rl_world
from test_dapo import sample
from test_run import Interrupt

from effopd.errors import CheckpointError, ConfigurationError
from effopd.objectives import generalized_advantages
from effopd.training import RLTrainer, build_trainer, train
from effopd.training.critic import Critic


def ppo(out: Path, **config: Any) -> RLTrainer:
    trainer = build_trainer(*rl_world(out, PLAIN, method="ppo", **config))[0]
    assert isinstance(trainer, RLTrainer)
    assert trainer.critic is not None
    return trainer


def values_by_hand(trainer: RLTrainer, batch: dict[str, Any]) -> torch.Tensor:
    """Values of each completion alone, without padding."""
    critic, rows = trainer.critic.critic, []
    for i in range(len(batch["completion_ids"])):
        prompt, completion = (
            batch[f"{name}_ids"][i][batch[f"{name}_mask"][i].bool()] for name in ("prompt", "completion")
        )
        states = critic.backbone(input_ids=torch.cat([prompt, completion])[None]).last_hidden_state[0]
        values = states[len(prompt) - 1 : -1] @ critic.head.weight[0] + critic.head.bias
        rows.append(torch.nn.functional.pad(values, (0, batch["completion_ids"].shape[1] - len(completion))))
    return torch.stack(rows)


def test_advantages_and_returns(tmp_path: Path) -> None:
    trainer = ppo(tmp_path, gamma=0.9, gae_lambda=0.8)
    with torch.no_grad():
        torch.manual_seed(0)
        trainer.critic.critic.head.weight.normal_()
    rewards: list[float] = []
    world_reward = trainer.reward_funcs[0]
    trainer.reward_funcs[0] = lambda **kwargs: rewards.extend(world_reward(**kwargs)) or rewards
    _, batch = sample(trainer)
    mask = batch["completion_mask"]
    with torch.no_grad():
        values = values_by_hand(trainer, batch)
    plain = generalized_advantages(torch.tensor(rewards), values, mask, 0.9, 0.8)
    torch.testing.assert_close(batch["returns"] * mask, (plain + values) * mask, rtol=1e-3, atol=1e-4)
    of_tokens = plain[mask.bool()]
    expected = (plain - of_tokens.mean()) / of_tokens.std(unbiased=False) * mask
    torch.testing.assert_close(batch["advantages"], expected, rtol=1e-3, atol=1e-4)
    assert batch["advantages"].shape == mask.shape


def test_at_first_every_value_is_0_and_the_return_is_the_reward(tmp_path: Path) -> None:
    _, batch = sample(ppo(tmp_path))
    assert set(batch["returns"][batch["completion_mask"].bool()].tolist()) == {0.0, 1.0}


def test_what_was_not_rewarded_trains_nothing(tmp_path: Path) -> None:
    trainer = ppo(tmp_path)
    trainer.reward_funcs[0] = lambda prompts, **kwargs: [None, 1.0, 0.0, 1.0] * (len(prompts) // 4)
    _, batch = sample(trainer)
    assert not batch["advantages"][::4].any()
    assert not batch["values_mask"][::4].any()
    assert torch.isfinite(batch["advantages"]).all()


def test_a_step_of_the_critic(tmp_path: Path) -> None:
    """Two micro-batches make one step of AdamW on the mean over their tokens of half the squared error."""
    trainer = ppo(tmp_path, critic_learning_rate=1e-2, max_grad_norm=0.5)
    _, batch = sample(trainer)
    trainer.current_gradient_accumulation_steps = 2
    critic = trainer.critic.critic
    loss = ((values_by_hand(trainer, batch) - batch["returns"]).square() * batch["completion_mask"]).sum()
    (loss / 2 / batch["completion_mask"].sum()).backward()
    expected = {name: parameter.grad.clone() for name, parameter in critic.named_parameters()}
    critic.zero_grad()
    before = {name: parameter.detach().clone() for name, parameter in critic.named_parameters()}
    halves = [{k: v[i : i + 4] if v.ndim else v for k, v in batch.items()} for i in (0, 4)]
    state = trainer.accelerator.gradient_state
    state._set_sync_gradients(False)
    trainer.critic.train_on(halves[0])
    assert all(parameter.equal(before[name]) for name, parameter in critic.named_parameters())
    state._set_sync_gradients(True)
    seen: dict[str, torch.Tensor] = {}
    trainer.critic.optimizer.register_step_pre_hook(
        lambda *args: seen.update({name: p.grad.clone() for name, p in critic.named_parameters()})
    )
    trainer.critic.train_on(halves[1])
    norm = torch.stack([gradient.norm() for gradient in expected.values()]).norm()
    for name, gradient in seen.items():
        clipped = expected[name] * min(1.0, 0.5 / norm.item())
        torch.testing.assert_close(gradient, clipped, rtol=1e-3, atol=1e-6)
    moved = (critic.head.weight - before["head.weight"]).abs()
    assert moved.max().item() == pytest.approx(1e-2, rel=1e-3)  # the first step of Adam
    assert all(parameter.grad is None for parameter in critic.parameters())
    assert all(parameter.grad is None for parameter in trainer.model.parameters())


def test_the_critic_learns_at_its_own_rate(tmp_path: Path) -> None:
    trainer = ppo(tmp_path, critic_learning_rate=1e-2, learning_rate=1e-30)
    _, batch = sample(trainer)
    trainer.current_gradient_accumulation_steps = 1
    mask = batch["completion_mask"]
    errors = []
    for _ in range(10):
        trainer.critic.train_on(batch)
        with torch.no_grad():
            errors.append(((values_by_hand(trainer, batch) - batch["returns"]).square() * mask).sum() / mask.sum())
    assert errors[-1] < 0.5 * errors[0]


def test_a_checkpoint_without_its_critic_is_not_continued_from(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(*rl_world(tmp_path, PLAIN, method="ppo"), callbacks=lambda trainer, metrics: [Interrupt(1)])
    critic = tmp_path / "checkpoint-1" / "effopd" / "critic.safetensors"
    critic.write_bytes(critic.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"is damaged: effopd/critic\.safetensors has"):
        train(*rl_world(tmp_path, PLAIN, method="ppo"))
    with pytest.raises(CheckpointError, match="the critic of the checkpoint, cannot be read"):
        ppo(tmp_path / "other").critic._load(str(tmp_path / "checkpoint-1"))


def test_a_trainer_and_its_critic_go_together(tmp_path: Path) -> None:
    trainer = ppo(tmp_path)
    with pytest.raises(ConfigurationError, match="ppo needs one, the others none"):
        RLTrainer(model=trainer.model, args=trainer.args, reward_funcs=[])
    grpo = rl_world(tmp_path, PLAIN)[1]
    with pytest.raises(ConfigurationError, match="got critic=Critic"):
        RLTrainer(model=trainer.model, args=grpo, reward_funcs=[], critic=Critic(trainer.model))
