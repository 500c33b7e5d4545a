"""`train`: a run in its directory, which continues where an interrupted one stopped.

A run directory holds `config.yaml` (with every field), `versions.json`, `metrics.jsonl`, `extrapolations.jsonl`,
`updates.jsonl` if it was asked for, `frozen.json` if something is frozen, `checkpoint-N/`, the model card `README.md`,
and the TensorBoard log; once the run is finished, the final model and `run.json` too, and of AlphaOPD the extrapolated
model in `alphaopd/` and `alphaopd.json`.
"""

import contextlib
import logging
import re
import shutil
import warnings
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import TrainerCallback

from effopd import trl_hooks
from effopd.errors import ConfigurationError, DataError, EffOPDError
from effopd.files import finite_or_none, read_json, read_json_lines, replaced, write_json, write_text
from effopd.models.load import load_model
from effopd.run_directory import differing_settings, locked
from effopd.training.alphaopd import MODEL, RECORD, extrapolate_run
from effopd.training.best_model import best_step
from effopd.training.build import build_trainer
from effopd.training.card import CONFIG, VERSIONS, write_card
from effopd.training.complete_checkpoints import (
    STATE_FILES,
    TRAINER_STATE,
    check_processes,
    newest_checkpoint,
    prompts_per_step,
    read_complete,
    read_mark,
    unreadable,
)
from effopd.training.config import OPDConfig, RunArguments
from effopd.training.failures import explained, named
from effopd.training.freezing import note_frozen, savings
from effopd.training.metrics import METRICS, MetricsCallback
from effopd.training.rewards import resolve_rewards
from effopd.training.rl_config import TrainConfig
from effopd.training.rl_trainer import RLTrainer
from effopd.training.trainer import OPDTrainer
from effopd.versions import installed_versions

logger = logging.getLogger(__name__)

FINISHED = "run.json"
# Packages that decide what a run computes.
_PACKAGES = ("effopd", "torch", "transformers", "trl", "accelerate", "datasets")
# Files that training writes. In a directory without CONFIG they are somebody else's.
_OF_A_MODEL = ("checkpoint-*", "*.safetensors", "config.json")
# Settings that may change between an interrupted run and its continuation without changing what is trained.
_FREE = re.compile(
    r"^(output_dir|report_to|run_name|project|disable_tqdm|dataloader_\w+|logging_\w+|log_\w+|save_total_limit|"
    r"hub_\w+|push_to_hub|vllm_server_\w+|vllm_gpu_memory_utilization)$"
)

# Errors that say nothing of the checkpoint which is being loaded.
_OF_THE_MACHINE = (EffOPDError, MemoryError, torch.OutOfMemoryError, torch.AcceleratorError)

# Makes further callbacks from the trainer, of either class, and the callback that writes its metrics.
MakeCallbacks = Callable[[Any, MetricsCallback], Sequence[TrainerCallback]]


def versions() -> dict[str, str]:
    """Look up the versions of Python and of the packages that decide what a run computes."""
    return installed_versions(_PACKAGES)


def train(arguments: RunArguments, config: TrainConfig, callbacks: MakeCallbacks | None = None) -> list[dict[str, Any]]:
    """Do a run, or what is left of it.

    A run directory that is finished is left as it is. An interrupted run continues from its newest complete checkpoint.
    While it trains, the main process keeps other commands out of the directory.

    Args:
        arguments: Models, data, reward and acceleration.
        config: Settings of the training; `output_dir` is the run directory.
        callbacks: Function that makes further callbacks from the trainer and its metrics.

    Returns:
        The rows of `metrics.jsonl` (see `effopd.training.metrics`).

    Raises:
        ConfigurationError: The directory holds a run with other settings, or settings do not work.
        DataError: A model or dataset is not what it should be, or another command is training in the directory.
        CheckpointError: A checkpoint cannot be continued from.
        DivergedError: Training has diverged.
        OSError: The disk is full. What was finished is kept.
    """
    directory = Path(config.output_dir)
    resolved = asdict(arguments) | config.to_dict()
    directory.mkdir(parents=True, exist_ok=True)  # fails where nothing can be written, before any model is loaded
    with locked(directory) if config.process_index == 0 else contextlib.nullcontext():
        _check_same_run(directory, resolved, _elastic(directory, config))
        if (directory / FINISHED).exists():
            logger.warning("%s is finished; its results are used again. Remove it to train anew.", directory)
            return read_json_lines(directory / METRICS)
        with warnings.catch_warnings():
            # TRL and transformers warn of one another's names, which is nothing that a user could change.
            warnings.filterwarnings("ignore", r".*gradient_checkpointing.* is deprecated", FutureWarning)
            return _train(arguments, config, callbacks, directory, resolved)


def _train(
    arguments: RunArguments,
    config: TrainConfig,
    callbacks: MakeCallbacks | None,
    directory: Path,
    resolved: dict[str, Any],
) -> list[dict[str, Any]]:
    trainer, metrics = build_trainer(arguments, config)
    note_frozen(trainer.model, directory, trainer.is_world_process_zero())
    if trainer.is_world_process_zero():
        write_text(directory / CONFIG, yaml.safe_dump(resolved, sort_keys=True))
        write_json(directory / VERSIONS, versions())
    trainer.write_card = partial(write_card, directory)
    for callback in callbacks(trainer, metrics) if callbacks else ():
        trainer.add_callback(callback)
    checkpoint = newest_checkpoint(directory)
    if checkpoint:
        logger.warning("Continuing from %s.", checkpoint)
        read_complete(checkpoint)
        check_processes(checkpoint, config)
    state = read_json(checkpoint / TRAINER_STATE) if checkpoint else {}
    if state and trainer.is_world_process_zero():
        trl_hooks.remove_old_checkpoints(config, state["global_step"], state["best_model_checkpoint"])
    try:
        if checkpoint and _had_ended(state):
            # Interrupted between its last checkpoint and its end. The Trainer would take one more step.
            trainer.state.best_model_checkpoint = state["best_model_checkpoint"]
            if trainer.is_world_process_zero():
                best = state["best_model_checkpoint"] if config.load_best_model_at_end else None
                _copy_model(directory / Path(best or checkpoint).name, directory)
        else:
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
            trainer.save_model(str(directory))
    except Exception as error:
        if reason := explained(error, trainer, resolve_rewards(arguments.reward) if arguments.reward else ()):
            raise reason from error
        if checkpoint and not metrics.has_begun and not isinstance(error, _OF_THE_MACHINE):
            raise unreadable(checkpoint, named(error)) from error
        raise
    trainer.accelerator.wait_for_everyone()
    if trainer.is_world_process_zero():
        last = read_json_lines(directory / METRICS)[-1]
        extrapolated = {}
        if arguments.alphaopd_target is not None:
            extrapolated = {"alphaopd": _extrapolate(arguments, trainer, directory)}
        frozen = savings(trainer.model, trainer.optimizer)
        best = best_step(config, trainer.state)
        trainer.write_card = partial(write_card, directory, best_step=best)
        trainer.create_model_card()
        loaded = {} if best is None else {"best_step": best}
        write_json(directory / FINISHED, {"steps": last["step"], "last": last} | loaded | extrapolated | frozen)
    return read_json_lines(directory / METRICS)


def _had_ended(state: dict[str, Any]) -> bool:
    """Tell from the state in a checkpoint whether training had ended there, by its number of steps or a callback."""
    stopped = state["stateful_callbacks"]["TrainerControl"]["args"]["should_training_stop"]
    return bool(stopped) or state["global_step"] >= state["max_steps"]


def _copy_model(checkpoint: Path, directory: Path) -> None:
    """Make a run's final model from a checkpoint, which has the same files and those of the training's state."""
    for file in checkpoint.iterdir():
        if file.is_file() and not file.name.startswith(STATE_FILES):
            with replaced(directory / file.name) as temporary:
                shutil.copyfile(file, temporary)


def _extrapolate(arguments: RunArguments, trainer: OPDTrainer | RLTrainer, directory: Path) -> dict[str, Any]:
    """Do the last stage of `method: alphaopd`, after training; on one process, also measure the model's accuracy."""
    base, target = arguments.model_name_or_path, arguments.alphaopd_target
    assert target is not None
    record = extrapolate_run(directory, base, target, len(trainer.eval_dataset))
    if trainer.accelerator.num_processes > 1:
        logger.warning("%s was not evaluated; do so with `effopd evaluate`.", directory / MODEL)
        return record
    weights = load_model(directory / MODEL, dtype=str(trainer.model.dtype).removeprefix("torch.")).state_dict()
    trainer.model.load_state_dict(weights)
    trl_hooks.publish_weights(trainer)
    measured = trainer.evaluate()
    record |= {name: finite_or_none(measured[f"eval_{name}"]) for name in ("accuracy", "accuracy_stderr")}
    write_json(directory / RECORD, record)
    return record


def _elastic(directory: Path, config: TrainConfig) -> set[str]:
    """Name the settings that may change with the number of processes, if a step takes as many prompts as before.

    In reinforcement learning, they also decide how often it samples.
    """
    checkpoint = newest_checkpoint(directory) if isinstance(config, OPDConfig) else None
    if not checkpoint or read_mark(checkpoint).get("prompts_per_step") != prompts_per_step(config):
        return set()
    return {"per_device_train_batch_size", "gradient_accumulation_steps"}


def _check_same_run(directory: Path, resolved: dict[str, Any], free: Collection[str] = ()) -> None:
    """Refuse a directory that holds a run with other settings, or files of a model that no run wrote."""
    path = directory / CONFIG
    if not path.exists():
        found = [entry.name for pattern in _OF_A_MODEL for entry in sorted(directory.glob(pattern))]
        if found:
            raise ConfigurationError(
                f"{directory} holds {', '.join(found[:5])} and no {CONFIG}, so it is no run of effopd, and training "
                "would write over it. Choose another directory."
            )
        return
    try:
        saved, wanted = yaml.safe_load(path.read_text(encoding="utf-8")), yaml.safe_load(yaml.safe_dump(resolved))
    except yaml.YAMLError as error:
        raise DataError(f"{path} is not YAML: {error}. Choose another directory, or remove this one.") from error
    if not isinstance(saved, dict):
        raise DataError(f"{path} holds no settings. Choose another directory, or remove this one.")
    before, now = (
        {key: values[key] for key in values if not _FREE.match(str(key)) and key not in free}
        for values in (saved, wanted)
    )
    if changed := differing_settings(before, now):
        raise ConfigurationError(
            f"{directory} holds a run with other settings ({'; '.join(changed[:5])}"
            f"{f'; and {len(changed) - 5} more' if len(changed) > 5 else ''}). Choose another directory, or remove it."
        )
