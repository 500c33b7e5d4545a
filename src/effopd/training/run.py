"""A run: from configuration to trainer to run directory, continuing where an interrupted one stopped.

A run directory holds `config.yaml` (resolved), `versions.json`, `metrics.jsonl`, `extrapolations.jsonl`,
`updates.jsonl` if asked for, `checkpoint-N/`, the TensorBoard log, and, once finished, the final model and `run.json`.
"""

import errno
import logging
import os
import platform
import re
import shutil
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from effopd.errors import ConfigurationError, DataError, EffOPDError
from effopd.extrapolation.callback import EffOPDCallback
from effopd.files import read_json_lines, write_json, write_text
from effopd.models.find import find_model
from effopd.models.load import load_model, load_tokenizer
from effopd.models.vocabulary import align_vocab_size, check_vocabularies
from effopd.training.config import OPDConfig, RunArguments
from effopd.training.data import load_prompts, warn_of_long_prompts
from effopd.training.metrics import COMPLETE, METRICS, MetricsCallback
from effopd.training.monitor import NUM_MATRICES, UpdateMonitorCallback
from effopd.training.rewards import resolve_rewards
from effopd.training.trainer import OPDTrainer
from effopd.world import model_path

logger = logging.getLogger(__name__)

CONFIG, VERSIONS, FINISHED = "config.yaml", "versions.json", "run.json"
_PACKAGES = ("effopd", "torch", "transformers", "trl", "accelerate", "datasets")
# What training writes and may be another's.
_OF_A_MODEL = ("checkpoint-*", "*.safetensors", "config.json")
# Bytes left below which an error while saving is put down to the disk.
FULL_DISK = 1 << 20
# Settings that may change between an interrupted run and its continuation without changing what is trained.
_FREE = re.compile(
    r"^(output_dir|report_to|run_name|project|disable_tqdm|dataloader_\w+|logging_\w+|log_\w+|save_total_limit|"
    r"hub_\w+|push_to_hub|vllm_server_\w+|vllm_gpu_memory_utilization)$"
)


class TargetCallback(TrainerCallback):
    """Stops training when an evaluation reaches `target` accuracy."""

    def __init__(self, target: float) -> None:
        self.target = target

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Compare."""
        if metrics and metrics.get("eval_accuracy", float("-inf")) >= self.target:
            control.should_training_stop = True


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide what a run computes."""
    return {"python": platform.python_version()} | {package: version(package) for package in _PACKAGES}


def build_trainer(arguments: RunArguments, config: OPDConfig) -> tuple[OPDTrainer, MetricsCallback]:
    """Load everything a run needs and check that it fits together.

    Raises:
        ConfigurationError: Settings, vocabularies or rewards do not fit.
        DataError: A model or dataset is not what it should be.
    """
    if not config.teacher_model_name_or_path:
        raise ConfigurationError("teacher_model_name_or_path is not set: distillation needs a teacher.")
    if config.max_steps == 0:
        raise ConfigurationError("max_steps=0 trains nothing; give a number of steps, or leave it out for epochs.")
    if config.resume_from_checkpoint:
        raise ConfigurationError(
            f"resume_from_checkpoint={config.resume_from_checkpoint!r} has no effect: a run continues from the newest "
            "checkpoint of its output_dir. Leave it out."
        )
    if config.max_steps < 0 and not config.num_train_epochs > 0:
        raise ConfigurationError(f"num_train_epochs={config.num_train_epochs} trains nothing; it is above 0.")
    if config.eval_strategy != "no" and not arguments.evaluation_dataset_name:
        raise ConfigurationError(
            f"eval_strategy is {config.eval_strategy.value!r}, and there is nothing to evaluate on. Set "
            'evaluation_dataset_name, or eval_strategy: "no".'
        )
    rewards = resolve_rewards(arguments.reward) if arguments.reward else None
    student_name, teacher_name = (
        model_path(name) for name in (arguments.model_name_or_path, config.teacher_model_name_or_path)
    )
    model_kwargs: dict[str, Any] = dict(config.model_init_kwargs or {})
    teacher_kwargs: dict[str, Any] = dict(config.teacher_model_init_kwargs or {})
    trust: dict[str, Any] = {"trust_remote_code": config.trust_remote_code}
    revision, teacher_revision = model_kwargs.get("revision"), config.teacher_model_revision
    sources = [
        (os.path.realpath(source) if isinstance(source := find_model(*each), Path) else source, each[1])
        for each in ((student_name, revision), (teacher_name, teacher_revision))
    ]
    if sources[0] == sources[1] and config.process_index == 0:
        logger.warning("Student and teacher are the same model, %s: there is nothing to learn.", student_name)
    tokens: dict[str, Any] = {"pad_token": arguments.pad_token, "eos_token": arguments.eos_token}
    tokenizer = load_tokenizer(student_name, revision=revision, **tokens, **trust)
    teacher_tokenizer = load_tokenizer(teacher_name, revision=teacher_revision, **tokens, **trust)
    dataset, evaluation = load_datasets(arguments)
    for each in (dataset, evaluation):
        if each is not None and isinstance(each[0]["prompt"], list) and not tokenizer.chat_template:
            raise ConfigurationError(
                f"{student_name}: the tokenizer has no chat template, which messages need. Leave system_prompt out and "
                "write prompts as text, or take a model with a template."
            )
    batch_size = config.per_device_train_batch_size * config.gradient_accumulation_steps * config.world_size
    if len(dataset) < batch_size:
        raise ConfigurationError(
            f"{arguments.dataset_name}: {len(dataset)} rows are fewer than the {batch_size} of one optimizer step. Use "
            "more rows, or a smaller per_device_train_batch_size or gradient_accumulation_steps."
        )
    student = load_model(student_name, **trust, **model_kwargs)
    teacher = load_model(teacher_name, revision=teacher_revision, **trust, **teacher_kwargs)
    context = getattr(student.config.get_text_config(), "max_position_embeddings", None)
    if context and config.process_index == 0:
        warn_of_long_prompts(dataset, tokenizer, context, config.max_completion_length or 0)
    check_vocabularies(tokenizer, teacher_tokenizer, student.config, teacher.config)
    teacher = align_vocab_size(teacher, student.config.get_text_config().vocab_size, len(tokenizer))
    config.model_init_kwargs = config.teacher_model_init_kwargs = None  # used above: TRL warns when given both
    try:
        trainer = OPDTrainer(
            model=student,
            teacher_model=teacher,
            args=config,
            train_dataset=dataset,
            eval_dataset=evaluation,
            processing_class=tokenizer,
            evaluation_reward=rewards if evaluation is not None else None,
        )
    except EffOPDError:
        raise
    except (ValueError, ImportError) as error:  # how TRL and transformers refuse settings
        raise ConfigurationError(f"These settings cannot be trained with: {error}") from error
    config.model_init_kwargs, config.teacher_model_init_kwargs = model_kwargs or None, teacher_kwargs or None
    effopd = None
    if settings := arguments.extrapolation_config():
        effopd = EffOPDCallback(trainer, rewards if settings.validator == "reward" else None, preset=settings)
        trainer.add_callback(effopd)
    if arguments.monitor_every is not None:
        num_matrices = arguments.monitor_matrices or NUM_MATRICES
        trainer.add_callback(UpdateMonitorCallback(trainer, arguments.monitor_every, num_matrices))
    metrics = MetricsCallback(trainer, effopd)
    trainer.add_callback(metrics)
    if arguments.target_accuracy is not None:
        trainer.add_callback(TargetCallback(arguments.target_accuracy))
    return trainer, metrics


def train(
    arguments: RunArguments,
    config: OPDConfig,
    callbacks: Callable[[OPDTrainer, MetricsCallback], Sequence[TrainerCallback]] | None = None,
) -> list[dict[str, Any]]:
    """Do a run, or what is left of it.

    A finished run directory is left as it is. One that was interrupted continues from its newest complete checkpoint.

    Args:
        arguments: What to train on what.
        config: How; `output_dir` is the run directory.
        callbacks: Makes further callbacks from the trainer and its metrics.

    Returns:
        The rows of `metrics.jsonl` (see `effopd.training.metrics`).

    Raises:
        ConfigurationError: The directory holds a run with other settings, or settings do not work.
        DataError: A model or dataset is not what it should be.
        CheckpointError: A checkpoint cannot be continued from.
        OSError: The disk is full. What was finished is kept.
    """
    directory = Path(config.output_dir)
    resolved = asdict(arguments) | config.to_dict()
    _check_same_run(directory, resolved)
    if (directory / FINISHED).exists():
        logger.warning("%s is finished; its results are used again. Remove it to train anew.", directory)
        return read_json_lines(directory / METRICS)
    with warnings.catch_warnings():
        # TRL and transformers, of one another's names: nothing that a user could change.
        warnings.filterwarnings("ignore", r".*gradient_checkpointing.* is deprecated", FutureWarning)
        return _train(arguments, config, callbacks, directory, resolved)


def _train(
    arguments: RunArguments,
    config: OPDConfig,
    callbacks: Callable[[OPDTrainer, MetricsCallback], Sequence[TrainerCallback]] | None,
    directory: Path,
    resolved: dict[str, Any],
) -> list[dict[str, Any]]:
    directory.mkdir(parents=True, exist_ok=True)  # where nothing can be written is known before models are loaded
    trainer, metrics = build_trainer(arguments, config)
    if trainer.is_world_process_zero():
        write_text(directory / CONFIG, yaml.safe_dump(resolved, sort_keys=True))
        write_json(directory / VERSIONS, versions())
    for callback in callbacks(trainer, metrics) if callbacks else ():
        trainer.add_callback(callback)
    checkpoint = newest_checkpoint(directory)
    if checkpoint:
        logger.warning("Continuing from %s.", checkpoint)
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        trainer.save_model(str(directory))
    except Exception as error:  # torch and safetensors have errors of their own for a full disk
        full = os.strerror(errno.ENOSPC)
        if full in str(error) or shutil.disk_usage(directory).free < FULL_DISK:
            raise OSError(errno.ENOSPC, full, str(directory)) from error
        if "probability tensor contains" in str(error):
            raise EffOPDError(
                f"After step {trainer.state.global_step}, the student's probabilities are no numbers any more: training"
                " has diverged. Lower the learning rate, and choose another directory."
            ) from error
        raise
    trainer.accelerator.wait_for_everyone()
    if trainer.is_world_process_zero():
        write_json(directory / FINISHED, {"steps": trainer.state.global_step, "last": metrics.row})
    return read_json_lines(directory / METRICS)


def newest_checkpoint(directory: Path) -> Path | None:
    """The checkpoint with the most steps among those written completely, or None."""
    complete = {
        int(number): path.parent
        for path in directory.glob(f"checkpoint-*/{COMPLETE}")
        if (number := path.parent.name.removeprefix("checkpoint-")).isdecimal()
    }
    return complete[max(complete)] if complete else None


def _check_same_run(directory: Path, resolved: dict[str, Any]) -> None:
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
        saved, wanted = yaml.safe_load(path.read_text()), yaml.safe_load(yaml.safe_dump(resolved))
    except yaml.YAMLError as error:
        raise DataError(f"{path} is not YAML: {error}. Choose another directory, or remove this one.") from error
    if not isinstance(saved, dict):
        raise DataError(f"{path} holds no settings. Choose another directory, or remove this one.")
    changed = [
        f"{key}: {saved.get(key)!r} there, {wanted.get(key)!r} now"
        for key in sorted(saved.keys() | wanted.keys())
        if saved.get(key) != wanted.get(key) and not _FREE.match(key)
    ]
    if changed:
        raise ConfigurationError(
            f"{directory} holds a run with other settings ({'; '.join(changed[:5])}"
            f"{f'; and {len(changed) - 5} more' if len(changed) > 5 else ''}). Choose another directory, or remove it."
        )


def load_datasets(arguments: RunArguments) -> tuple[Any, Any]:
    """The training prompts, and those to evaluate on or None."""
    common: dict[str, Any] = {
        "require_answer": any(reward in ("math", "world") for reward in arguments.reward or ()),
        "system_prompt": arguments.system_prompt,
        "prompt_template": arguments.prompt_template,
        "answer_after": arguments.answer_after,
    }
    dataset = load_prompts(
        arguments.dataset_name,
        split=arguments.dataset_split,
        config_name=arguments.dataset_config,
        prompt_column=arguments.prompt_column,
        answer_column=arguments.answer_column,
        limit=arguments.num_train_examples,
        **common,
    )
    _check_tests(dataset, arguments.dataset_name, arguments)
    if not arguments.evaluation_dataset_name:
        return dataset, None
    same = arguments.evaluation_dataset_name == arguments.dataset_name
    evaluation = load_prompts(
        arguments.evaluation_dataset_name,
        split=arguments.evaluation_split,
        config_name=arguments.evaluation_config or (arguments.dataset_config if same else None),
        prompt_column=arguments.evaluation_prompt_column or arguments.prompt_column,
        answer_column=arguments.evaluation_answer_column or arguments.answer_column,
        limit=arguments.num_evaluation_examples,
        **common,
    )
    _check_tests(evaluation, arguments.evaluation_dataset_name, arguments)
    return dataset, evaluation


def _check_tests(dataset: Any, name: str, arguments: RunArguments) -> None:
    if "code" in (arguments.reward or ()) and "tests" not in dataset.column_names:
        raise DataError(
            f"{name}: the reward 'code' needs a column 'tests'; there are {', '.join(dataset.column_names)}. "
            "See docs/evaluation.md for what tests look like."
        )
