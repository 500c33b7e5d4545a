"""What must hold before training starts for extrapolation to be right; everything else is refused here."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from accelerate.utils import DistributedType, is_peft_model

from effopd.errors import ConfigurationError, UnsupportedError
from effopd.extrapolation.presets import ExtrapolationConfig
from effopd.extrapolation.snapshot import local_part
from effopd.trl_hooks import TESTED_TRAINERS as TESTED

# Relative distance up to which a tensor of the optimizer counts as a copy of the weights. Momenta are far beyond it.
LARGEST_DISTANCE = 0.05
KEEPS_WEIGHTS = (
    "An optimizer that keeps weights of its own, averaged or as a master copy, would overwrite an extrapolation at its "
    "next step. Use one that updates the model's weights in place, such as optim='adamw_torch'."
)


# What validation calls, and rollouts kept for later steps. A trainer is tested where these are a tested trainer's own.
_USED = ("_tokenize_prompts", "_generate_single_turn", "_prepare_inputs")


def check_trainer(trainer: Any, allow_untested: bool = False) -> None:
    """Refuse trainers whose weights cannot be extrapolated correctly.

    Args:
        trainer: Any trainer.
        allow_untested: Accept a class that is not tested, if it can sample at all.

    Raises:
        ConfigurationError: The trainer's sampling is not known, or its tokenizer has no padding token.
        UnsupportedError: Tools, environments, a rollout function; schedule-free optimizers; PEFT adapters, DeepSpeed,
            FSDP1.
    """
    _check_class(trainer, allow_untested)
    for name in ("tools", "environments", "rollout_func"):
        if getattr(trainer, name, None):
            raise UnsupportedError(
                f"The trainer has {name}, with which rollouts are more than one completion of a prompt. Validation "
                "samples just that, so it would judge candidates by another task. Train without acceleration."
            )
    optimizer = str(getattr(trainer.args, "optim", ""))
    if "schedule_free" in optimizer:
        raise UnsupportedError(f"optim={optimizer!r}: {KEEPS_WEIGHTS}")
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


def _check_class(trainer: Any, allow_untested: bool) -> None:
    kind = type(trainer)
    if not hasattr(trainer, "_generate_single_turn"):
        raise ConfigurationError(
            f"{kind.__name__} does not sample by TRL's _generate_single_turn, which validation calls. EffOPDCallback "
            f"works on {_tested_names()}."
        )
    same = (all(getattr(kind, name, None) is getattr(tested, name) for name in _USED) for tested in TESTED)
    if not allow_untested and not any(same):
        raise ConfigurationError(
            f"{kind.__name__} is not a trainer that EffOPDCallback is tested with ({_tested_names()}), or it replaces "
            f"one of {', '.join(_USED)}. If its _generate_single_turn gives one completion for each prompt, from the "
            "weights as they are, pass allow_untested_trainer=True."
        )


def _tested_names() -> str:
    return ", ".join(tested.__name__ for tested in TESTED)


def check_optimizer(optimizer: Any, parameters: Iterable[torch.Tensor]) -> None:
    """Refuse an optimizer that keeps weights of its own, which would undo a jump at the next step.

    To be called when the optimizer has done a step. It is recognised by a tensor in its state that is all but equal to
    the parameter: relative distance at most `LARGEST_DISTANCE`, for the largest matrix of those given.

    Raises:
        UnsupportedError: There is such a tensor.
    """
    matrices = [parameter for parameter in parameters if parameter.ndim > 1]
    if not matrices:
        return
    largest = max(matrices, key=lambda parameter: parameter.numel())
    for name, value in getattr(optimizer, "state", {}).get(largest, {}).items():
        if not isinstance(value, torch.Tensor) or value.shape != largest.shape or not value.is_floating_point():
            continue
        kept, weight = (local_part(each).detach().to(torch.float32) for each in (value, largest))
        if torch.dist(kept.to(weight.device), weight) <= LARGEST_DISTANCE * weight.norm():
            kind = type(getattr(optimizer, "optimizer", optimizer)).__name__
            raise UnsupportedError(f"The optimizer, {kind}, holds the weights in its state ({name!r}). {KEEPS_WEIGHTS}")


def check_device(name: str | None) -> None:
    """Check that tensors can be put on a device.

    Raises:
        ConfigurationError: There is no such device.
    """
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
        raise ConfigurationError(
            f"snapshot_device: got {name!r}, which torch cannot use here ({str(error).splitlines()[0]}). Use 'cpu', "
            "'cuda' where there is one, or leave it out."
        ) from error


def check_schedule(triggers: Callable[[int], bool], schedule: Any, max_steps: int) -> None:
    """Refuse a schedule by which a training of `max_steps` steps would never extrapolate.

    Raises:
        ConfigurationError: No step from 1 to `max_steps` is one of the schedule.
    """
    if not any(triggers(step) for step in range(1, max_steps + 1)):
        raise ConfigurationError(
            f"schedule={schedule!r} has no step among the {max_steps} of this training, so nothing would be "
            "extrapolated. Give earlier steps, or train longer."
        )


def check_prompts(trainer: Any, examples: Sequence[dict[str, Any]]) -> None:
    """Refuse validation prompts that are neither text nor messages, or messages without a chat template.

    Raises:
        ConfigurationError: There is such a prompt.
    """
    for index, example in enumerate(examples):
        prompt = example["prompt"]
        if not isinstance(prompt, str | list) or not prompt:
            raise ConfigurationError(
                f"A validation prompt (number {index} of those drawn) is {prompt!r}; expected text or a list of "
                "messages. Leave such rows out."
            )
    is_messages = bool(examples) and isinstance(examples[0]["prompt"], list)
    if is_messages and not getattr(trainer._tokenizer, "chat_template", None):
        raise ConfigurationError(
            "Validation prompts are messages, and the tokenizer has no chat template to write them by. Give it one, or "
            "write prompts as text."
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
