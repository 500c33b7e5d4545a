"""Runs of a few steps on the embedded world."""

from pathlib import Path
from typing import Any

from effopd.training import OPDConfig, RunArguments

WORLD = {"model_name_or_path": "world:base", "dataset_name": "world:train", "reward": ["world"]}


def world(out: Path, arguments: dict[str, Any] | None = None, **config: Any) -> tuple[RunArguments, OPDConfig]:
    """Six small steps on the embedded world."""
    settings = {
        "teacher_model_name_or_path": "world:teacher",
        "per_device_train_batch_size": 16,
        "max_steps": 6,
        "learning_rate": 1e-4,
        "lr_scheduler_type": "constant",
        "bf16": False,
        "gradient_checkpointing": False,
        "max_completion_length": 12,
        "save_steps": 3,
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "seed": 1,
    }
    extra = {"extrapolation": {"num_prompts": 8}, "num_train_examples": 256} | (arguments or {})
    return RunArguments(**WORLD | extra), OPDConfig(output_dir=str(out), **settings | config)
