"""Training of the teacher by GRPO with TRL."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from effopd.checks import check_number, check_whole
from effopd.console import progress_bar
from effopd.world.reward import world_reward


@dataclass(frozen=True)
class TeacherConfig:
    """Settings of the teacher's training by on-policy GRPO, at a constant learning rate.

    Attributes:
        num_steps: Number of optimizer steps, at least 1.
        prompts_per_step: Number of problems in each step, at least 1.
        samples_per_prompt: Number of completions of a problem, GRPO's group size, at least 2.
        learning_rate: Learning rate of AdamW, above 0.
        clip_range: Distance from 1 at which the probability ratio is clipped on either side, above 0.
        kl_coefficient: Weight of the KL divergence to the base, at least 0.
        max_grad_norm: Norm that gradients are clipped to, above 0.
        save_steps: Number of steps between checkpoints, if they are kept, at least 1.
        twin_reliability: If it is set, GRPO starts from a twin of the base and not from the base: a model that was
            pretrained in the same way and from the same seed, but on data with this `fact_reliability`, in [0, 1]. GRPO
            can only bring out a right result that is sampled at times.

    Raises:
        ConfigurationError: A value is outside its range.
    """

    num_steps: int = 100
    prompts_per_step: int = 64
    samples_per_prompt: int = 8
    learning_rate: float = 3e-4
    clip_range: float = 0.2
    kl_coefficient: float = 0.0
    max_grad_norm: float = 1.0
    save_steps: int = 10
    twin_reliability: float | None = None

    def __post_init__(self) -> None:
        for name in ("num_steps", "prompts_per_step", "save_steps"):
            check_whole(name, getattr(self, name), 1)
        check_whole("samples_per_prompt", self.samples_per_prompt, 2)
        for name in ("learning_rate", "clip_range", "max_grad_norm"):
            check_number(name, getattr(self, name), above=0)
        check_number("kl_coefficient", self.kl_coefficient, low=0)
        if self.twin_reliability is not None:
            check_number("twin_reliability", self.twin_reliability, low=0, high=1)


def train_teacher(
    base: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    dataset: Dataset,
    config: TeacherConfig,
    seed: int,
    max_completion_length: int,
    output_dir: Path,
    use_cpu: bool,
    save_checkpoints: bool = False,
) -> list[float]:
    """Train a base, or a twin of it, into a teacher, in place, by GRPO on the world's binary reward.

    Args:
        base: Model that becomes the teacher.
        tokenizer: Tokenizer of the model.
        dataset: Problems, with the columns `prompt` and `answer`.
        config: Settings of the training.
        seed: Random seed of TRL's trainer.
        max_completion_length: Largest number of tokens in a completion.
        output_dir: Directory for checkpoints.
        use_cpu: Whether the CPU is used even if there is a GPU.
        save_checkpoints: Whether a checkpoint, model and optimizer state, is kept every `config.save_steps` steps.

    Returns:
        The mean reward of every step, in [0, 1].
    """
    from trl import GRPOConfig, GRPOTrainer  # imported here, so that importing the world does not load TRL

    with warnings.catch_warnings():  # older versions of transformers have the old name only, which TRL reads too
        warnings.filterwarnings("ignore", ".*gradient_checkpointing.* is deprecated", FutureWarning)
        arguments = GRPOConfig(
            output_dir=str(output_dir),
            seed=seed,
            max_completion_length=max_completion_length,
            use_cpu=use_cpu,
            dataloader_pin_memory=not use_cpu,
            save_strategy="steps" if save_checkpoints else "no",
            **_grpo_settings(config),
        )
        trainer = GRPOTrainer(
            model=base,
            processing_class=tokenizer,
            reward_funcs=world_reward,
            args=arguments,
            train_dataset=dataset,
            callbacks=[_ProgressCallback()],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return [entry["reward"] for entry in trainer.state.log_history if "reward" in entry]


def _grpo_settings(config: TeacherConfig) -> dict[str, Any]:
    """Name the settings of a teacher as TRL does, and add those that never change."""
    return {
        "max_steps": config.num_steps,
        "per_device_train_batch_size": config.prompts_per_step * config.samples_per_prompt,
        "num_generations": config.samples_per_prompt,
        "gradient_accumulation_steps": 1,
        "learning_rate": config.learning_rate,
        "lr_scheduler_type": "constant",
        "warmup_steps": 0,
        "max_grad_norm": config.max_grad_norm,
        "weight_decay": 0.0,
        "beta": config.kl_coefficient,
        "epsilon": config.clip_range,
        "loss_type": "grpo",
        "scale_rewards": "group",
        "temperature": 1.0,
        "top_p": 1.0,
        "bf16": False,
        "gradient_checkpointing": False,
        "logging_steps": 1,
        "disable_tqdm": True,
        "report_to": "none",
        "save_steps": config.save_steps,
    }


class _ProgressCallback(TrainerCallback):
    """Shows a progress bar in place of a printed line for each step."""

    def __init__(self) -> None:
        self.progress = progress_bar("steps")

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.task = self.progress.add_task("training the teacher", total=state.max_steps)
        self.progress.start()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.progress.update(self.task, completed=state.global_step)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.progress.stop()
