"""What must hold before training starts for extrapolation to be right; everything else is refused here."""

from typing import Any

from accelerate.utils import DistributedType, is_peft_model

from effopd.errors import ConfigurationError, UnsupportedError
from effopd.extrapolation.presets import ExtrapolationConfig


def check_trainer(trainer: Any) -> None:
    """Refuse trainers whose weights cannot be extrapolated correctly.

    Raises:
        ConfigurationError: The trainer does not generate, or its tokenizer has no padding token.
        UnsupportedError: Tools, environments, a rollout function; PEFT adapters, DeepSpeed, FSDP1.
    """
    if not hasattr(trainer, "_generate_single_turn"):
        raise ConfigurationError(
            f"EffOPDCallback needs a TRL trainer that samples from the model (DistillationTrainer, GRPOTrainer), got "
            f"{type(trainer).__name__}."
        )
    for name in ("tools", "environments", "rollout_func"):
        if getattr(trainer, name, None):
            raise UnsupportedError(
                f"The trainer has {name}, with which rollouts are more than one completion of a prompt. Validation "
                "samples just that, so it would judge candidates by another task. Train without acceleration."
            )
    if is_peft_model(trainer.model):
        raise UnsupportedError(
            "The model has PEFT adapters. Extrapolating A and B separately is not extrapolating their product BA, so "
            "the result would not be EffOPD. Train all parameters, or merge the adapter first (merge_and_unload)."
        )
    accelerator = trainer.accelerator
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        raise UnsupportedError(
            "DeepSpeed keeps a partitioned float32 copy of the weights that writing to the model does not reach. Use "
            "FSDP2 (accelerate: fsdp_version: 2), which shards the same way, or train without acceleration."
        )
    if accelerator.distributed_type == DistributedType.FSDP and accelerator.state.fsdp_plugin.fsdp_version != 2:
        raise UnsupportedError("FSDP1 flattens parameters. Set fsdp_version: 2 in the accelerate configuration.")
    if trainer._tokenizer.pad_token_id is None:
        raise ConfigurationError(
            "The tokenizer has no padding token, which batched generation needs. Set tokenizer.pad_token before making "
            "the trainer; tokenizer.eos_token will do, padding being masked by its place and not by its token."
        )


def validation_rows(trainer: Any, dataset: Any, config: ExtrapolationConfig) -> Any:
    """The rows that validation prompts are drawn from: those given, or the training set (as in the paper).

    Raises:
        ConfigurationError: There are none, too few of them, fewer than processes, or no `prompt` column.
        UnsupportedError: They have images.
    """
    rows = trainer.train_dataset if dataset is None else dataset
    source = "training" if dataset is None else "validation"
    if not hasattr(rows, "__len__"):
        raise ConfigurationError(
            f"The {source} dataset is a stream ({type(rows).__name__}), from which no validation prompts can be drawn. "
            f"Pass validation_dataset=, a list or Dataset of at least {config.num_prompts} rows."
        )
    if len(rows) < config.num_prompts:
        raise ConfigurationError(
            f"Validation needs {config.num_prompts} prompts, the {source} dataset has {len(rows)}. Add rows, or set "
            f"num_prompts to at most {len(rows)}."
        )
    if config.num_prompts < trainer.accelerator.num_processes:
        raise ConfigurationError(
            f"num_prompts={config.num_prompts} is less than the {trainer.accelerator.num_processes} processes, each "
            "of which validates at least one. Raise num_prompts."
        )
    if "prompt" not in rows[0]:
        raise ConfigurationError(f"The {source} dataset has no column 'prompt'; it has {sorted(rows[0])}.")
    if {"image", "images"} & set(rows[0]):
        raise UnsupportedError(
            f"The {source} dataset has images, which validation does not show to the model. Pass validation_dataset= "
            "with prompts of text, or train without acceleration."
        )
    return rows
