"""Models, tokenizers and prompts of a run: loaded, the cheap ones first, and checked to fit together."""

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from effopd.errors import ConfigurationError
from effopd.models.find import find_model
from effopd.models.load import load_model, load_tokenizer
from effopd.models.vocabulary import align_vocab_size, check_vocabularies
from effopd.training.config import OPDConfig, RunArguments
from effopd.training.data import load_prompts, warn_of_long_prompts
from effopd.training.freezing import freeze
from effopd.training.rl_config import RLConfig, TrainConfig
from effopd.training.tests_column import with_tests

logger = logging.getLogger(__name__)


class Loaded(NamedTuple):
    """What a run trains with.

    Attributes:
        student: Model that is trained.
        teacher: Frozen model with as many rows in its head as the student; None where the method has none.
        reference: Frozen reference model of ExOPD; None where the method needs none.
        tokenizer: Tokenizer of the student.
        dataset: Training prompts.
        evaluation: Prompts to evaluate on, or None.
        validation: Prompts to validate extrapolations on, or None for those of training.
    """

    student: PreTrainedModel
    teacher: PreTrainedModel | None
    reference: PreTrainedModel | None
    tokenizer: PreTrainedTokenizerBase
    dataset: Any
    evaluation: Any
    validation: Any


def load(arguments: RunArguments, config: TrainConfig) -> Loaded:
    """Load models, tokenizers and prompts, the cheap ones first, and check that they fit together.

    Raises:
        ConfigurationError: Vocabularies, prompts or sizes do not fit.
        DataError: A model or dataset is not what it should be.
    """
    student_name = arguments.model_name_or_path
    student_kwargs = {"trust_remote_code": config.trust_remote_code} | dict(config.model_init_kwargs or {})
    student_revision = student_kwargs.get("revision")
    tokens: dict[str, Any] = {"pad_token": arguments.pad_token, "eos_token": arguments.eos_token}
    tokenizer = load_tokenizer(student_name, **_of_tokenizer(student_kwargs), **tokens)
    teacher_tokenizer = None
    if isinstance(config, OPDConfig):
        teacher_name = config.teacher_model_name_or_path
        own = {"trust_remote_code": config.trust_remote_code, "revision": config.teacher_model_revision}
        teacher_kwargs: dict[str, Any] = own | dict(config.teacher_model_init_kwargs or {})
        sources = [_source(student_name, student_revision), _source(teacher_name, teacher_kwargs["revision"])]
        if sources[0] == sources[1] and config.process_index == 0:
            logger.warning("Student and teacher are the same model, %s: there is nothing to learn.", student_name)
        teacher_tokenizer = load_tokenizer(teacher_name, **_of_tokenizer(teacher_kwargs), **tokens)
    dataset, evaluation = load_datasets(arguments)
    validation = None
    if arguments.validation_dataset_name:  # read as the training prompts are
        validation = _load_as_training(arguments, arguments.validation_dataset_name, None)
    _check_datasets(arguments, config, tokenizer, dataset, evaluation)
    student = load_model(student_name, **student_kwargs)
    freeze(student, arguments.freeze, arguments.freeze_like, arguments.freeze_below)
    context = getattr(student.config.get_text_config(), "max_position_embeddings", None)
    if context and config.process_index == 0:
        warn_of_long_prompts(dataset, tokenizer, context, config.max_completion_length or 0)
    if not isinstance(config, OPDConfig):
        return Loaded(student, None, None, tokenizer, dataset, evaluation, validation)
    teacher = load_model(teacher_name, **teacher_kwargs)
    check_vocabularies(tokenizer, teacher_tokenizer, student.config, teacher.config)
    num_tokens = 1 + max(tokenizer.get_vocab().values())
    teacher = align_vocab_size(teacher, student.config.get_text_config().vocab_size, num_tokens)
    reference = None
    if config.reads_reference:
        reference = _load_reference(arguments, student_revision, tokenizer, student, num_tokens, teacher_kwargs)
    return Loaded(student, teacher, reference, tokenizer, dataset, evaluation, validation)


def _load_reference(
    arguments: RunArguments,
    student_revision: str | None,
    tokenizer: PreTrainedTokenizerBase,
    student: PreTrainedModel,
    num_tokens: int,
    kwargs: dict[str, Any],
) -> PreTrainedModel:
    """Load ExOPD's reference model as the teacher is loaded, with its dtype, since it is frozen as well."""
    name = arguments.reference_model_name_or_path
    kwargs = kwargs | {"revision": None if name else student_revision}
    name = name or arguments.model_name_or_path
    reference = load_model(name, **kwargs)
    if name != arguments.model_name_or_path:
        tokens: dict[str, Any] = {"pad_token": arguments.pad_token, "eos_token": arguments.eos_token}
        own = load_tokenizer(name, **_of_tokenizer(kwargs), **tokens)
        check_vocabularies(tokenizer, own, student.config, reference.config)
    return align_vocab_size(reference, student.config.get_text_config().vocab_size, num_tokens)


def _of_tokenizer(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Take from the arguments of a model those that its tokenizer is loaded by as well."""
    return {name: kwargs[name] for name in ("revision", "trust_remote_code") if name in kwargs}


def _source(name: str, revision: str | None) -> tuple[str, str | None]:
    """Name a model so that two names of the same model are equal."""
    place = find_model(name, revision)
    return os.path.realpath(place) if isinstance(place, Path) else place, revision


def _check_datasets(
    arguments: RunArguments, config: TrainConfig, tokenizer: PreTrainedTokenizerBase, dataset: Any, evaluation: Any
) -> None:
    for each in (dataset, evaluation):
        if each is not None and isinstance(each[0]["prompt"], list) and not tokenizer.chat_template:
            raise ConfigurationError(
                f"{arguments.model_name_or_path}: the tokenizer has no chat template, which messages need. Leave "
                "system_prompt out and write prompts as text, or take a model with a template."
            )
    batch_size = config.per_device_train_batch_size * config.gradient_accumulation_steps * config.world_size
    if isinstance(config, RLConfig):
        batch_size = config.generation_batch_size // config.num_generations
    if len(dataset) < batch_size:
        raise ConfigurationError(
            f"{arguments.dataset_name}: {len(dataset)} rows are fewer than the {batch_size} of one optimizer step. Use "
            "more rows, or a smaller per_device_train_batch_size or gradient_accumulation_steps."
        )


def load_datasets(arguments: RunArguments) -> tuple[Any, Any]:
    """Load the training prompts, and the prompts to evaluate on, or None for those.

    Raises:
        ConfigurationError: An argument cannot be right.
        DataError: A dataset cannot be read, or lacks what a reward needs.
    """
    dataset = _load_as_training(arguments, arguments.dataset_name, arguments.num_train_examples)
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
        **_reading(arguments),
    )
    if "code" in (arguments.reward or ()):
        evaluation = with_tests(evaluation, arguments.tests_column, arguments.evaluation_dataset_name)
    return dataset, evaluation


def _load_as_training(arguments: RunArguments, name: str, limit: int | None) -> Any:
    dataset = load_prompts(
        name,
        split=arguments.dataset_split,
        config_name=arguments.dataset_config,
        prompt_column=arguments.prompt_column,
        answer_column=arguments.answer_column,
        limit=limit,
        **_reading(arguments),
    )
    return with_tests(dataset, arguments.tests_column, name) if "code" in (arguments.reward or ()) else dataset


def _reading(arguments: RunArguments) -> dict[str, Any]:
    return {
        "require_answer": any(reward in ("math", "world") for reward in arguments.reward or ()),
        "system_prompt": arguments.system_prompt,
        "prompt_template": arguments.prompt_template,
        "answer_after": arguments.answer_after,
    }
