"""Checks that extrapolation will be right, before it changes anything: what does not pass is refused."""

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from accelerate.utils import DistributedType, is_peft_model

from effopd import trl_hooks
from effopd.errors import ConfigurationError, UnsupportedError
from effopd.extrapolation.adapters import check_adapter
from effopd.extrapolation.deepspeed_checks import check_deepspeed
from effopd.extrapolation.next_rollouts import NextRolloutsValidator
from effopd.extrapolation.optimizers import KEEPS_WEIGHTS
from effopd.extrapolation.presets import ExtrapolationConfig
from effopd.extrapolation.validation import Validator

_IN_ITS_LOSS = (
    "It samples from inside its loss, and only for a share of the batches, with prompts cut from whole conversations. "
    "Distil with trl.DistillationTrainer"
)
_IN_ANOTHER_PROCESS = (
    "A process of its own samples for it without end, from weights some steps old, and would mix what candidates write "
    "into the training. Train with the trainer that samples in step"
)
# Trainers of TRL that do not sample as `generate` needs it: why, and what to use.
REASONS = {
    "GKDTrainer": f"{_IN_ITS_LOSS}, of which GKD with lmbda=1 is the case of beta.",
    "GOLDTrainer": f"{_IN_ITS_LOSS}, for which student and teacher must share a vocabulary.",
    "AsyncGRPOTrainer": f"{_IN_ANOTHER_PROCESS}: trl.GRPOTrainer.",
    "AsyncDistillationTrainer": f"{_IN_ANOTHER_PROCESS}: trl.DistillationTrainer.",
}


def check_trainer(trainer: Any, allow_untested: bool = False) -> None:
    """Refuse trainers whose weights cannot be extrapolated correctly.

    Args:
        trainer: Trainer of any class.
        allow_untested: Whether to accept a class that is not tested, if it can sample at all.

    Raises:
        ConfigurationError: The trainer samples in a way that is not tested, or its tokenizer has no padding token.
        UnsupportedError: The trainer uses tools, environments or a rollout function, a schedule-free optimizer,
            checkpoints that come at any moment, an adapter other than a plain LoRA, some settings of DeepSpeed, FSDP1,
            or tensor, context or sequence parallelism.
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
    if getattr(trainer.args, "enable_jit_checkpoint", False):
        raise UnsupportedError(
            "enable_jit_checkpoint=True saves in the middle of a step and tells no callback, so that a checkpoint "
            "would lack the anchor, or have one of other weights. Leave it out, and save by save_steps."
        )
    if is_peft_model(trainer.model):
        check_adapter(trainer)
    accelerator = trainer.accelerator
    parallelism = getattr(accelerator, "parallelism_config", None)
    if split := [name for name in ("tp", "cp", "sp") if getattr(parallelism, f"{name}_size", 1) > 1]:
        raise UnsupportedError(
            f"parallelism_config has {split[0]}_size > 1, with which several processes work on the same prompts. "
            "Validation gives each process prompts of its own. Use FSDP2 alone (dp_shard_size)."
        )
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        check_deepspeed(accelerator)
    if accelerator.distributed_type == DistributedType.FSDP and accelerator.state.fsdp_plugin.fsdp_version != 2:
        raise UnsupportedError(
            "FSDP1 joins the parameters of a module into one flat tensor, of which no part can be selected or measured "
            "by its name. Set fsdp_version: 2 in the accelerate configuration, or train without acceleration."
        )
    if trl_hooks.tokenizer(trainer).pad_token_id is None:
        raise ConfigurationError(
            "The tokenizer has no padding token, which batched generation needs. Set tokenizer.pad_token before making "
            "the trainer; tokenizer.eos_token will do, padding being masked by its place and not by its token."
        )


def _check_class(trainer: Any, allow_untested: bool) -> None:
    name = type(trainer).__name__
    tested = ", ".join(each.__name__ for each in trl_hooks.TESTED_TRAINERS)
    if not trl_hooks.can_sample(trainer):
        reason = next((REASONS[each.__name__] for each in type(trainer).__mro__ if each.__name__ in REASONS), "")
        raise ConfigurationError(
            f"{name} does not sample by TRL's _generate_single_turn, which validation calls. EffOPDCallback "
            f"works on {tested}. {reason}".rstrip()
        )
    if not allow_untested and not trl_hooks.samples_as_tested(trainer):
        raise ConfigurationError(
            f"{name} is not a trainer that EffOPDCallback is tested with ({tested}), or it replaces one of "
            f"{', '.join(trl_hooks.SAMPLING_METHODS)}. If its _generate_single_turn gives one completion for each "
            "prompt, from the weights as they are, pass allow_untested_trainer=True."
        )


def check_validator(config: ExtrapolationConfig, validator: Validator) -> None:
    """Refuse a validator of one's own beside settings that are for another kind of search.

    Raises:
        ConfigurationError: One of the two searches on the next step's rollouts, and the other does not.
    """
    if isinstance(validator, NextRolloutsValidator) != (config.validator == "next_rollouts"):
        raise ConfigurationError(
            f"Got a {type(validator).__name__} with settings for validator={config.validator!r}. preset='line_search' "
            "takes no other validator than its own, and no other preset takes that one. For a validator of your own, "
            "use preset='paper' or 'reference'."
        )


def warn_if_not_added(trainer: Any, callback: Any) -> None:
    """Warn that a trainer starts without a callback that was made for it."""
    if callback not in trainer.callback_handler.callbacks:
        warnings.warn(
            f"An {type(callback).__name__} was made for this trainer and not added to it. Call trainer.add_callback "
            "with it.",
            stacklevel=3,
        )


def check_added(trainer: Any, callback: Any, state: Any) -> None:
    """Check, when training begins, that the callback is its own trainer's, and the only one of its class.

    Raises:
        ConfigurationError: It was made for another trainer, or there is another callback beside it.
    """
    if state is not trainer.state:
        raise ConfigurationError(
            "This EffOPDCallback was made for another trainer, whose weights it would move. Make one for each: "
            "trainer.add_callback(EffOPDCallback(trainer, ...))."
        )
    if sum(isinstance(each, type(callback)) for each in trainer.callback_handler.callbacks) > 1:
        raise ConfigurationError(
            "The trainer has more than one EffOPDCallback, and would extrapolate as often. Leave one of them: "
            "trainer.remove_callback(EffOPDCallback) removes the first."
        )


def check_device(name: str | None) -> None:
    """Check that tensors can be put on a device.

    Raises:
        ConfigurationError: There is no such device.
    """
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:  # torch without CUDA raises an AssertionError
        raise ConfigurationError(
            f"snapshot_device: got {name!r}, which torch cannot use here ({str(error).splitlines()[0]}). Use 'cpu', "
            "'cuda' where there is one, or leave it out."
        ) from error


def check_prompts(trainer: Any, examples: Sequence[dict[str, Any]]) -> None:
    """Refuse rows whose prompts are not all text, or all messages, or without a chat template; and missing columns.

    Raises:
        ConfigurationError: There is such a row, or no template.
    """
    is_messages = bool(examples) and isinstance(examples[0]["prompt"], list)
    for index, example in enumerate(examples):
        if example.keys() != examples[0].keys():
            raise ConfigurationError(
                f"Validation row {index} of those checked has the columns {', '.join(example)}; expected, as in row 0, "
                f"{', '.join(examples[0])}. Give all rows the same ones."
            )
        prompt = example["prompt"]
        if not isinstance(prompt, str | list) or not prompt or isinstance(prompt, list) != is_messages:
            expected = "a list of messages" if is_messages else "text" if index else "text or a list of messages"
            raise ConfigurationError(
                f"The prompt of validation row {index} of those checked is {prompt!r}; expected {expected}. Leave "
                "such rows out."
            )
    if is_messages and not getattr(trl_hooks.tokenizer(trainer), "chat_template", None):
        raise ConfigurationError(
            "Validation prompts are messages, and the tokenizer has no chat template to write them by. Give it one, or "
            "write prompts as text."
        )


def validation_rows(trainer: Any, dataset: Any, config: ExtrapolationConfig, ahead: bool = False) -> Any:
    """Return the rows that validation prompts are drawn from: those given, or the training set as in the paper.

    There are none if `ahead`, that is if the rollouts of training are judged on.

    Raises:
        ConfigurationError: A dataset is given that is not used; or the dataset is a stream, has too few rows or no
            `prompt` column, or fewer prompts are asked for than there are processes.
        UnsupportedError: The rows have images.
    """
    if ahead and dataset is not None:
        raise ConfigurationError(
            "A validation_dataset was given, and validator='next_rollouts' judges on the rollouts that training "
            "samples. Leave it out."
        )
    if ahead:
        return []
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
