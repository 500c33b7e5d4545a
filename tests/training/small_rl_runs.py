"""Runs of reinforcement learning of a few steps on the embedded world."""

from pathlib import Path
from typing import Any

from small_runs import WORLD

from effopd.training import RLConfig, RunArguments

PLAIN = {"acceleration": "none", "extrapolation": None}


def rl_world(out: Path, arguments: dict[str, Any] | None = None, **config: Any) -> tuple[RunArguments, RLConfig]:
    """Three steps of two prompts with four samples each, in two micro-batches."""
    settings = {
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "num_generations": 4,
        "max_steps": 3,
        "learning_rate": 1e-4,
        "lr_scheduler_type": "constant",
        "bf16": False,
        "activation_checkpointing": False,
        "max_completion_length": 12,
        "save_steps": 1,
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "seed": 1,
    }
    extra = {"extrapolation": {"num_prompts": 4}, "num_train_examples": 64} | (arguments or {})
    return RunArguments(**WORLD | extra), RLConfig(output_dir=str(out), **settings | config)
