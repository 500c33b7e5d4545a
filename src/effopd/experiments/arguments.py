"""The arguments of a training run on the embedded world."""

from pathlib import Path

from effopd.training.config import OPDConfig, RunArguments
from effopd.world import DEFAULT_WORLD, task_config

PROMPTS_PER_STEP = 256
EVALUATION_PROBLEMS = 512
TARGET_ACCURACY = 0.95
MAX_STEPS = 400
SAVE_STEPS = 10


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
    """
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
