"""`effopd demo`: vanilla OPD against EffOPD on the embedded world, to the same accuracy, every cost counted."""

import logging
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from rich.table import Table
from transformers import TrainerCallback

from effopd.files import write_json
from effopd.report.curves import accuracy_figure
from effopd.study.speed import to_target
from effopd.training.config import OPDConfig, RunArguments
from effopd.training.evaluation import EvaluateNearTarget
from effopd.training.metrics import MetricsCallback
from effopd.training.progress import RunDisplay, RunProgress, quiet_libraries
from effopd.training.run import FINISHED, train, versions
from effopd.training.trainer import OPDTrainer
from effopd.world import TaskConfig, world_reward

PROMPTS_PER_STEP = 256
# The longest well-formed answer, `1,5,6,2,7;`, and a little room in which a longer one shows.
MAX_COMPLETION_LENGTH = TaskConfig().max_completion_length + 2
EVALUATION_PROBLEMS = 512
TARGET_ACCURACY = 0.95
LEARNING_RATE = 1e-4
MAX_STEPS = 400
SAVE_STEPS = 10
LABELS = {"none": "vanilla", "paper": "EffOPD"}


def world_run(
    directory: Path,
    *,
    acceleration: str,
    learning_rate: float,
    seed: int,
    target_accuracy: float = TARGET_ACCURACY,
    prompts_per_step: int = PROMPTS_PER_STEP,
    evaluation_problems: int = EVALUATION_PROBLEMS,
    max_steps: int = MAX_STEPS,
    save_steps: int | None = SAVE_STEPS,
) -> tuple[RunArguments, OPDConfig]:
    """Settings of one run on the embedded world that stops at a target accuracy.

    Args:
        directory: Run directory.
        acceleration: `none` or an EffOPD preset.
        learning_rate: Constant, without warm-up.
        seed: Of the order of the prompts, of sampling, and of the choice of validation prompts.
        target_accuracy: Where the run stops.
        prompts_per_step: One completion each; above 256, a multiple of 256.
        evaluation_problems: The same for every run.
        max_steps: Where it stops short of the target.
        save_steps: Steps between checkpoints; None: none are saved.
    """
    micro_batch = min(PROMPTS_PER_STEP, prompts_per_step)
    arguments = RunArguments(
        model_name_or_path="world:base",
        dataset_name="world:train",
        reward=["world"],
        evaluation_dataset_name="world:evaluation",
        num_evaluation_examples=evaluation_problems,
        acceleration=acceleration,
        extrapolation=None if acceleration == "none" else {"seed": seed},
        target_accuracy=target_accuracy,
    )
    config = OPDConfig(
        output_dir=str(directory),
        teacher_model_name_or_path="world:teacher",
        learning_rate=learning_rate,
        lr_scheduler_type="constant",
        seed=seed,
        max_steps=max_steps,
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=prompts_per_step // micro_batch,
        beta=1.0,
        temperature=1.0,
        max_completion_length=MAX_COMPLETION_LENGTH,
        bf16=False,
        gradient_checkpointing=False,
        logging_steps=1,
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        save_strategy="no" if save_steps is None else "steps",
        save_steps=save_steps or 1,
        save_total_limit=1,
    )
    return arguments, config
