"""A model, prompts and a configuration that are small enough for tests, as verl reads them from disk."""

import json
from pathlib import Path
from typing import Any

import torch

from effopd.world.model import ModelSize, make_model
from effopd.world.tokenizer import make_tokenizer

SIZE = ModelSize(hidden_size=32, intermediate_size=64, num_layers=2, num_heads=2)
REWARD = """def compute_score(data_source, solution_str, ground_truth, extra_info=None, **others):
    return float(ground_truth in solution_str)
"""
TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


def write_world(out: Path, reward: str = REWARD) -> None:
    """Write a random model with its tokenizer, prompts, and a reward function."""
    import pandas

    tokenizer = make_tokenizer()
    tokenizer.chat_template = TEMPLATE
    torch.manual_seed(0)
    make_model(SIZE, tokenizer, max_length=64).save_pretrained(out / "model")
    tokenizer.save_pretrained(out / "model")
    (out / "reward.py").write_text(reward)
    rows = [
        {
            "data_source": "sums",
            "prompt": [{"role": "user", "content": f"{i % 10}+{i * 7 % 10}="}],
            "reward_model": {"style": "rule", "ground_truth": str(i * 8 % 10)},
            "extra_info": {"index": i},
        }
        for i in range(32)
    ]
    pandas.DataFrame(rows).to_parquet(out / "prompts.parquet")


def overrides(world: Path, run: Path, **settings: Any) -> list[str]:
    """What differs from verl's defaults, as its command line takes it; `settings` are those of the section `effopd`."""
    changed = {
        "data.train_files": world / "prompts.parquet",
        "data.val_files": world / "prompts.parquet",
        "data.train_batch_size": 4,
        "data.max_prompt_length": 8,
        "data.max_response_length": 6,
        "data.dataloader_num_workers": 0,
        "data.shuffle": False,
        "actor_rollout_ref.model.path": world / "model",
        "+actor_rollout_ref.model.override_config.attn_implementation": "eager",
        "actor_rollout_ref.model.use_remove_padding": False,
        "actor_rollout_ref.model.enable_gradient_checkpointing": False,
        "actor_rollout_ref.actor.strategy": "fsdp2",
        "actor_rollout_ref.actor.fsdp_config.strategy": "fsdp2",
        "actor_rollout_ref.actor.fsdp_config.use_torch_compile": False,
        "+actor_rollout_ref.actor.fsdp_config.mixed_precision.param_dtype": "fp32",
        "actor_rollout_ref.actor.optim.lr": 1e-3,
        "actor_rollout_ref.actor.optim.total_training_steps": 8,
        "actor_rollout_ref.actor.ppo_mini_batch_size": 4,
        "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu": 4,
        "actor_rollout_ref.rollout.name": "stand_in",
        "actor_rollout_ref.rollout.n": 2,
        "actor_rollout_ref.rollout.tensor_model_parallel_size": 2,
        "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu": 4,
        "actor_rollout_ref.rollout.agent.num_workers": 1,
        "actor_rollout_ref.rollout.val_kwargs.temperature": 1.0,
        "actor_rollout_ref.rollout.val_kwargs.do_sample": True,
        "algorithm.adv_estimator": "grpo",
        "reward.num_workers": 1,
        "reward.custom_reward_function.path": world / "reward.py",
        "trainer.device": "cpu",
        "trainer.n_gpus_per_node": 2,
        "trainer.logger": "[console]",
        "trainer.default_local_dir": run,
        "trainer.val_before_train": False,
        "trainer.save_freq": 1,
        "trainer.v1.trainer_mode": "effopd",
        "ray_kwargs.ray_init.num_cpus": 16,
        "+ray_kwargs.ray_init.num_gpus": 2,
        "+ray_kwargs.ray_init.include_dashboard": False,
        "transfer_queue.backend.SimpleStorage.num_data_storage_units": 1,
    }
    changed |= {f"+effopd.{name}": json.dumps(value) for name, value in settings.items()}
    return [f"{name}={value}" for name, value in changed.items()]


# With it, a forward pass leaves parameters gathered, which the worker has to mind.
GATHERED = "actor_rollout_ref.actor.fsdp_config.reshard_after_forward=False"


def configuration(world: Path, run: Path) -> Any:
    """Compose verl's configuration, as its command line does."""
    from hydra import compose, initialize_config_module

    with initialize_config_module("verl.trainer.config", version_base=None):
        return compose("ppo_trainer", [*overrides(world, run), GATHERED])
