"""GRPO, DAPO and PPO by `train`: accounting, resuming, extrapolation on top, and GRPO against TRL's own."""

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from small_rl_runs import PLAIN, rl_world
from test_run import Interrupt, without_seconds
from tiny_models import write_tiny_qwen3
from trl import GRPOConfig, GRPOTrainer

from effopd.errors import ConfigurationError
from effopd.training import build_trainer, train
from effopd.world import world_reward

METHODS = pytest.mark.parametrize("method", ["grpo", "dapo", "ppo"])
EVALUATED = {"evaluation_dataset_name": "world:evaluation", "num_evaluation_examples": 4}


def same(left: Path, right: Path) -> bool:
    one, other = load_file(left), load_file(right)
    return one.keys() == other.keys() and all(one[name].equal(other[name]) for name in one)


def interrupted(out: Path, step: int, *args: Any, **config: Any) -> list[dict[str, Any]]:
    """The rows of a run that was interrupted after a step, and continued."""
    with pytest.raises(KeyboardInterrupt):
        train(*rl_world(out, *args, **config), callbacks=lambda trainer, metrics: [Interrupt(step)])
    return train(*rl_world(out, *args, **config))


@METHODS
def test_a_run_continues_to_the_same_end_and_counts_its_cost(method: str, tmp_path: Path) -> None:
    config = {"method": method, "eval_strategy": "steps", "eval_steps": 2}
    whole = train(*rl_world(tmp_path / "whole", EVALUATED, **config))
    continued = interrupted(tmp_path / "cut", 2, EVALUATED, **config)
    assert [*map(without_seconds, continued)] == [*map(without_seconds, whole)]
    assert same(tmp_path / "whole" / "model.safetensors", tmp_path / "cut" / "model.safetensors")
    triggers = [json.loads(line) for line in (tmp_path / "cut" / "extrapolations.jsonl").read_text().splitlines()]
    last = continued[-1]
    assert [trigger["step"] for trigger in triggers] == [1, 2]
    assert last["validation_rollouts"] == sum(trigger["rollouts"] for trigger in triggers) > 0
    sampled = last["rollouts"] - last["validation_rollouts"]
    assert sampled == 3 * 8 if method != "dapo" else sampled > 3 * 8
    assert sampled % 4 == 0
    tokens = last["generated_tokens"] - last["validation_tokens"]
    assert last["reference_tokens"] == (tokens if method == "grpo" else 0)
    assert (last["seconds"]["reference"] > 0) == (method == "grpo")
    assert last["teacher_tokens"] == last["seconds"]["teacher"] == 0
    assert last["seconds_total"] == pytest.approx(sum(last["seconds"].values()))
    assert [row["reverse_kl"] for row in continued] == [None] * 3
    assert [row["accuracy"] is not None for row in continued] == [False, True, True]
    if method == "ppo":
        critic = Path("checkpoint-3", "effopd", "critic.safetensors")
        assert same(tmp_path / "whole" / critic, tmp_path / "cut" / critic)
        assert not any("critic" in path.name for path in tmp_path.glob("whole/*"))
    with pytest.raises(ConfigurationError, match=r"learning_rate 0\.0001 \(now 0\.001\)"):
        train(*rl_world(tmp_path / "whole", EVALUATED, **config | {"learning_rate": 1e-3}))


@pytest.mark.parametrize("method", ["dapo", "ppo"])
def test_several_steps_on_the_same_rollouts(method: str, tmp_path: Path) -> None:
    """Two optimizer steps on each generation: checkpoints are between generations, and continue to the bit."""
    config = {"method": method, "generation_batch_size": 16, "max_steps": 4, "save_steps": 2, "learning_rate": 1e-3}
    whole = train(*rl_world(tmp_path / "whole", PLAIN, **config))
    continued = interrupted(tmp_path / "cut", 3, PLAIN, **config)
    assert [*map(without_seconds, continued)] == [*map(without_seconds, whole)]
    assert same(tmp_path / "whole" / "model.safetensors", tmp_path / "cut" / "model.safetensors")
    rollouts = [row["rollouts"] for row in whole]
    assert rollouts[0] == rollouts[1] < rollouts[2] == rollouts[3]
    with pytest.raises(ConfigurationError, match=r"of which there are 2.*Set save_steps to a multiple of 2"):
        rl_world(tmp_path, **config | {"save_steps": 3})


@METHODS
def test_a_tiny_qwen3(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages in a chat template, bf16 shards, activation checkpointing as in the recipes, a reward of one's own."""
    problems = [{"question": f"What is {i} plus {i}?", "final_answer": str(2 * i)} for i in range(24)]
    (tmp_path / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in problems))
    (tmp_path / "rewards_of_ids.py").write_text(
        "def even(completion_ids, **kwargs): return [float(ids[0] % 2) for ids in completion_ids]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    student = write_tiny_qwen3(tmp_path / "student")
    names = {
        "model_name_or_path": str(student),
        "dataset_name": str(tmp_path / "problems.jsonl"),
        "prompt_column": "question",
        "answer_column": "final_answer",
        "system_prompt": "",
        "reward": ["rewards_of_ids:even"],
        "num_train_examples": None,
    }
    config = {"method": method, "max_steps": 2, "save_steps": 2, "activation_checkpointing": True}
    rows = train(*rl_world(tmp_path / "run", names | PLAIN, **config, learning_rate=1e-2, logging_steps=1))
    assert rows[-1]["rollouts"] >= 2 * 8
    assert max(row["grad_norm"] for row in rows) > 0
    state = "model.embed_tokens.weight"
    before = {name: tensor for path in student.glob("*.safetensors") for name, tensor in load_file(path).items()}
    assert not load_file(tmp_path / "run" / "model.safetensors")[state].equal(before[state].float())


def test_grpo_is_that_of_trl_to_the_bit(tmp_path: Path) -> None:
    arguments, config = rl_world(tmp_path / "ours", PLAIN, max_steps=2)
    assert (config.epsilon, config.epsilon_high, config.beta, config.loss_type) == (0.2, None, 0.001, "grpo")
    trainer, _ = build_trainer(arguments, config)
    assert (trainer.epsilon_low, trainer.epsilon_high) == (0.2, 0.2)
    names = ("per_device_train_batch_size", "gradient_accumulation_steps", "num_generations", "max_steps", "seed")
    names += ("learning_rate", "lr_scheduler_type", "bf16", "activation_checkpointing", "max_completion_length")
    names += ("report_to", "disable_tqdm", "use_cpu", "beta", "loss_type", "output_dir")
    theirs = GRPOTrainer(
        model=build_trainer(*rl_world(tmp_path / "none", PLAIN))[0].model,
        reward_funcs=world_reward,
        args=GRPOConfig(**{name: getattr(config, name) for name in names}, save_strategy="no"),
        train_dataset=trainer.train_dataset,
        processing_class=trainer.processing_class,
    )
    theirs.train()
    train(arguments, config)
    ours = load_file(tmp_path / "ours" / "model.safetensors")
    assert all(weight.equal(ours[name]) for name, weight in theirs.model.state_dict().items() if name in ours)


def test_only_the_policy_is_extrapolated(tmp_path: Path) -> None:
    """EffOPD takes its parameters from the trainer's model, of which the critic is no part."""
    trainer, metrics = build_trainer(*rl_world(tmp_path, method="ppo"))
    assert metrics.effopd is not None
    policy = {name for name, _ in trainer.model.named_parameters()}
    assert set(metrics.effopd._names) == policy
    backbone = dict(trainer.critic.critic.backbone.named_parameters())
    assert not {id(parameter) for parameter in backbone.values()} & {*map(id, trainer.model.parameters())}
    assert all(
        parameter.equal(dict(trainer.model.base_model.named_parameters())[n]) for n, parameter in backbone.items()
    )


def test_a_run_stops_where_accuracy_stays(tmp_path: Path) -> None:
    """With a learning rate of almost nothing, the second evaluation after the first ends the run."""
    arguments = PLAIN | EVALUATED | {"stop_without_improvement": 2}
    config = {"eval_strategy": "steps", "eval_steps": 1, "max_steps": 8, "learning_rate": 1e-30}
    whole = train(*rl_world(tmp_path / "whole", arguments, **config))
    assert len(whole) == 3
    assert len({row["accuracy"] for row in whole}) == 1
    continued = interrupted(tmp_path / "cut", 2, arguments, **config)
    assert [*map(without_seconds, continued)] == [*map(without_seconds, whole)]
    assert json.loads((tmp_path / "cut" / "run.json").read_text())["steps"] == 3
