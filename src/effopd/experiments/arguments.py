"""The arguments of training runs on the embedded worlds."""

from pathlib import Path
from typing import Any

from effopd.errors import ConfigurationError
from effopd.training.config import OPDConfig, RunArguments
from effopd.training.rl_config import RLConfig
from effopd.world import DEFAULT_WORLD, TeacherConfig, task_config

PROMPTS_PER_STEP = 256
EVALUATION_PROBLEMS = 512
TARGET_ACCURACY = 0.95
MAX_STEPS = 400
SAVE_STEPS = 10

# Settings of every run here: float32 on the CPU, and metrics in the run's own files only.
_QUIET_ON_CPU: dict[str, Any] = {
    "bf16": False,
    "gradient_checkpointing": False,
    "logging_steps": 1,
    "report_to": "none",
    "disable_tqdm": True,
    "dataloader_pin_memory": False,
}


def world_run_arguments(
    directory: Path,
    *,
    world: str = DEFAULT_WORLD,
    acceleration: str,
    learning_rate: float,
    seed: int,
    target_accuracy: float = TARGET_ACCURACY,
    prompts_per_step: int = PROMPTS_PER_STEP,
    evaluation_problems: int = EVALUATION_PROBLEMS,
    max_steps: int = MAX_STEPS,
    save_steps: int | None = SAVE_STEPS,
) -> tuple[RunArguments, OPDConfig]:
    """Make the arguments of `effopd.training.run.train` for a run that stops at a target accuracy.

    Args:
        directory: Directory for the run.
        world: Name of the embedded world, a key of `effopd.world.WORLDS`.
        acceleration: `none`, or the name of an EffOPD preset.
        learning_rate: Learning rate, which is constant and has no warm-up.
        seed: Random seed for the order of the prompts, for sampling, and for the choice of validation prompts.
        target_accuracy: Accuracy at which the run stops, in [0, 1].
        prompts_per_step: Number of prompts per optimizer step, with one completion each. If it is above 256, it has to
            be a multiple of 256.
        evaluation_problems: Number of problems on which the accuracy is measured; the same ones for every run.
        max_steps: Number of steps after which the run stops short of the target.
        save_steps: Number of steps between checkpoints; None saves none.

    Raises:
        ConfigurationError: `prompts_per_step` is above 256 and no multiple of it.
    """
    if prompts_per_step > PROMPTS_PER_STEP and prompts_per_step % PROMPTS_PER_STEP:
        raise ConfigurationError(
            f"prompts_per_step: got {prompts_per_step}, expected at most {PROMPTS_PER_STEP} or a multiple of it."
        )
    prefix = "world:" if world == DEFAULT_WORLD else f"world:{world}/"
    micro_batch = min(PROMPTS_PER_STEP, prompts_per_step)
    arguments = RunArguments(
        model_name_or_path=f"{prefix}base",
        dataset_name=f"{prefix}train",
        reward=["world"],
        evaluation_dataset_name=f"{prefix}evaluation",
        num_evaluation_examples=evaluation_problems,
        acceleration=acceleration,
        target_accuracy=target_accuracy,
    )
    config = OPDConfig(
        output_dir=str(directory),
        teacher_model_name_or_path=f"{prefix}teacher",
        learning_rate=learning_rate,
        lr_scheduler_type="constant",
        seed=seed,
        max_steps=max_steps,
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=prompts_per_step // micro_batch,
        beta=1.0,
        temperature=1.0,
        # Room for the longest well-formed answer, such as `1,5,6,2,7;`, and for two more tokens: a longer one shows.
        max_completion_length=task_config(world).max_completion_length + 2,
        **_QUIET_ON_CPU,
        save_strategy="no" if save_steps is None else "steps",
        save_steps=save_steps or 1,
        save_total_limit=1,
    )
    return arguments, config


def world_rl_arguments(
    directory: Path, *, world: str, method: str, reward: str, seed: int, max_steps: int, save_steps: int
) -> tuple[RunArguments, RLConfig]:
    """Make the arguments of a run of reinforcement learning, with the batch and rate that worlds train teachers with.

    Args:
        directory: Directory for the run.
        world: Name of the embedded world, a key of `effopd.world.WORLDS`.
        method: `grpo` (without a KL term), `dapo` or `ppo`, whose critic learns at the policy's rate.
        reward: Name of the reward, as `effopd.training.rewards.resolve_rewards` takes it.
        seed: Random seed for the order of the prompts and for sampling.
        max_steps: Number of steps.
        save_steps: Number of steps between checkpoints, all of which are kept.
    """
    prefix = "world:" if world == DEFAULT_WORLD else f"world:{world}/"
    arguments = RunArguments(
        model_name_or_path=f"{prefix}base", dataset_name=f"{prefix}train", reward=[reward], acceleration="none"
    )
    of_teacher = TeacherConfig()
    own: dict[str, Any] = {"ppo": {"critic_learning_rate": of_teacher.learning_rate}, "grpo": {"beta": 0.0}}
    config = RLConfig(
        output_dir=str(directory),
        method=method,
        learning_rate=of_teacher.learning_rate,
        lr_scheduler_type="constant",
        seed=seed,
        max_steps=max_steps,
        per_device_train_batch_size=of_teacher.prompts_per_step * of_teacher.samples_per_prompt,
        num_generations=of_teacher.samples_per_prompt,
        gradient_accumulation_steps=1,
        epsilon=of_teacher.clip_range,
        max_grad_norm=of_teacher.max_grad_norm,
        temperature=1.0,
        top_p=1.0,
        max_completion_length=task_config(world).max_completion_length + 2,
        **_QUIET_ON_CPU,
        save_strategy="steps",
        save_steps=save_steps,
        **own.get(method, {}),
    )
    return arguments, config
