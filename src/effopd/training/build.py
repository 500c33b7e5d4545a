"""From a configuration to a trainer: check the settings, load what they name, and wire it up."""

import logging
import os
from pathlib import Path
from typing import Any, NamedTuple

from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback

from effopd.errors import ConfigurationError, EffOPDError, ServerError
from effopd.extrapolation.callback import EffOPDCallback
from effopd.models.find import find_model
from effopd.models.load import load_model, load_tokenizer
from effopd.models.vocabulary import align_vocab_size, check_vocabularies
from effopd.training.alphaopd import check_alphaopd
from effopd.training.complete_checkpoints import check_zero_saves
from effopd.training.config import OPDConfig, RunArguments
from effopd.training.critic import Critic
from effopd.training.data import load_prompts, warn_of_long_prompts
from effopd.training.failures import is_of_a_server, named
from effopd.training.freezing import freeze
from effopd.training.metrics import MetricsCallback
from effopd.training.monitor import NUM_MATRICES, UpdateMonitorCallback
from effopd.training.rewards import RewardFunction, resolve_rewards
from effopd.training.rl_config import RLConfig, TrainConfig
from effopd.training.rl_trainer import RLTrainer
from effopd.training.stopping import StopAtAccuracy, StopWithoutImprovement
from effopd.training.tests_column import with_tests
from effopd.training.trainer import OPDTrainer

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


def build_trainer(arguments: RunArguments, config: TrainConfig) -> tuple[OPDTrainer | RLTrainer, MetricsCallback]:
    """Load everything that a run needs, and check that it fits together.

    Raises:
        ConfigurationError: Settings, vocabularies or rewards do not fit.
        DataError: A model or dataset is not what it should be.
    """
    _check_settings(arguments, config)
    rewards = resolve_rewards(arguments.reward) if arguments.reward else None
    return _wire(arguments, config, _load(arguments, config), rewards)


def _check_settings(arguments: RunArguments, config: TrainConfig) -> None:
    """Refuse settings that cannot work together, before anything is loaded."""
    if isinstance(config, OPDConfig) and not config.teacher_model_name_or_path:
        raise ConfigurationError("teacher_model_name_or_path is not set: distillation needs a teacher.")
    if isinstance(config, RLConfig) and not arguments.reward:
        raise ConfigurationError(f"method={config.method!r} learns from rewards, and no reward is set. Set reward.")
    if config.max_steps == 0:
        raise ConfigurationError("max_steps=0 trains nothing; give a number of steps, or leave it out for epochs.")
    if config.resume_from_checkpoint:
        raise ConfigurationError(
            f"resume_from_checkpoint={config.resume_from_checkpoint!r} has no effect: a run continues from the newest "
            "checkpoint of its output_dir. Leave it out."
        )
    if config.max_steps < 0 and not config.num_train_epochs > 0:
        raise ConfigurationError(
            f"num_train_epochs={config.num_train_epochs} trains nothing; give a number above 0, or set max_steps."
        )
    if config.eval_strategy != "no" and not arguments.evaluation_dataset_name:
        raise ConfigurationError(
            f"eval_strategy is {config.eval_strategy.value!r}, and there is nothing to evaluate on. Set "
            'evaluation_dataset_name, or eval_strategy: "no".'
        )
    _check_method(arguments, config)


def _check_method(arguments: RunArguments, config: TrainConfig) -> None:
    """Refuse settings that the method does not go with."""
    check_alphaopd(arguments, config)
    reads_reference = isinstance(config, OPDConfig) and config.reads_reference
    if arguments.reference_model_name_or_path and not reads_reference:
        raise ConfigurationError(
            f"reference_model_name_or_path has no effect with method={config.method!r}"
            f"{' and exopd_lambda=1' if config.method == 'exopd' else ''}; leave it out."
        )
    settings = arguments.extrapolation_config()
    if not settings or settings.validator == "reward":
        return
    judges = f"acceleration={arguments.acceleration!r} judges weights by their divergence from the teacher"
    remedy = "Use paper or reference, which judge by reward, or none."
    if isinstance(config, RLConfig):
        raise ConfigurationError(
            f"{judges} ({settings.validator}), and method={config.method!r} has no teacher. {remedy}"
        )
    if reads_reference:
        raise ConfigurationError(
            f"{judges} ({settings.validator}), beyond which method='exopd' trains: it would take back what training "
            f"gains. {remedy}"
        )


def _load(arguments: RunArguments, config: TrainConfig) -> Loaded:
    """Load models, tokenizers and prompts, the cheap ones first, and check that they fit together."""
    student_name = arguments.model_name_or_path
    student_kwargs: dict[str, Any] = dict(config.model_init_kwargs or {})
    student_revision = student_kwargs.get("revision")
    trust: dict[str, Any] = {"trust_remote_code": config.trust_remote_code}
    tokens: dict[str, Any] = {"pad_token": arguments.pad_token, "eos_token": arguments.eos_token}
    tokenizer = load_tokenizer(student_name, revision=student_revision, **tokens, **trust)
    teacher_tokenizer = None
    if isinstance(config, OPDConfig):
        teacher_name, teacher_revision = config.teacher_model_name_or_path, config.teacher_model_revision
        sources = [_source(student_name, student_revision), _source(teacher_name, teacher_revision)]
        if sources[0] == sources[1] and config.process_index == 0:
            logger.warning("Student and teacher are the same model, %s: there is nothing to learn.", student_name)
        teacher_tokenizer = load_tokenizer(teacher_name, revision=teacher_revision, **tokens, **trust)
    dataset, evaluation = load_datasets(arguments)
    validation = None
    if arguments.validation_dataset_name:  # read as the training prompts are
        validation = _load_as_training(arguments, arguments.validation_dataset_name, None)
    _check_datasets(arguments, config, tokenizer, dataset, evaluation)
    student = load_model(student_name, **trust, **student_kwargs)
    freeze(student, arguments.freeze, arguments.freeze_like, arguments.freeze_below)
    context = getattr(student.config.get_text_config(), "max_position_embeddings", None)
    if context and config.process_index == 0:
        warn_of_long_prompts(dataset, tokenizer, context, config.max_completion_length or 0)
    if not isinstance(config, OPDConfig):
        return Loaded(student, None, None, tokenizer, dataset, evaluation, validation)
    teacher_kwargs: dict[str, Any] = dict(config.teacher_model_init_kwargs or {})
    teacher = load_model(teacher_name, revision=teacher_revision, **trust, **teacher_kwargs)
    check_vocabularies(tokenizer, teacher_tokenizer, student.config, teacher.config)
    num_tokens = 1 + max(tokenizer.get_vocab().values())
    teacher = align_vocab_size(teacher, student.config.get_text_config().vocab_size, num_tokens)
    reference = None
    if config.reads_reference:
        reference = _load_reference(arguments, student_revision, tokenizer, student, num_tokens, trust | teacher_kwargs)
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
    revision = None if name else student_revision
    name = name or arguments.model_name_or_path
    reference = load_model(name, revision=revision, **kwargs)
    if name != arguments.model_name_or_path:
        tokens: dict[str, Any] = {"pad_token": arguments.pad_token, "eos_token": arguments.eos_token}
        own = load_tokenizer(name, trust_remote_code=kwargs["trust_remote_code"], **tokens)
        check_vocabularies(tokenizer, own, student.config, reference.config)
    return align_vocab_size(reference, student.config.get_text_config().vocab_size, num_tokens)


def _wire(
    arguments: RunArguments, config: TrainConfig, loaded: Loaded, rewards: list[RewardFunction] | None
) -> tuple[OPDTrainer | RLTrainer, MetricsCallback]:
    """Make the trainer from what was loaded, and add its callbacks in their order."""
    trainer = _make_trainer(config, loaded, rewards)
    check_zero_saves(trainer)
    effopd = monitor = stop = early = None
    if settings := arguments.extrapolation_config():
        judge = rewards if settings.validator == "reward" else None
        effopd = EffOPDCallback(trainer, judge, preset=settings, validation_dataset=loaded.validation)
    if arguments.monitor_every is not None:
        monitor = UpdateMonitorCallback(trainer, arguments.monitor_every, arguments.monitor_matrices or NUM_MATRICES)
    metrics = MetricsCallback(trainer, effopd)
    if arguments.target_accuracy is not None:
        stop = StopAtAccuracy(arguments.target_accuracy)
    if arguments.stop_without_improvement is not None:
        early = StopWithoutImprovement(arguments.stop_without_improvement)
    callbacks: list[TrainerCallback | None] = [
        effopd,  # first, because it changes the weights at the end of a step, which the others look at
        monitor,  # measures the weights that the extrapolation left
        trainer.critic if isinstance(trainer, RLTrainer) else None,  # saves itself
        metrics,  # counts what the extrapolation cost, and marks a checkpoint as complete once those above have saved
        stop,  # stops once the metrics have noted the evaluation that reached the target
        early,
        # `train` adds its caller's callbacks after these. Those of `effopd.training.stopping` read the last
        # extrapolation and the metrics; `RunProgress` shows what all the others found, and comes last.
    ]
    for callback in callbacks:
        if callback is not None:
            trainer.add_callback(callback)
    return trainer, metrics


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


def _make_trainer(config: TrainConfig, loaded: Loaded, rewards: list[RewardFunction] | None) -> OPDTrainer | RLTrainer:
    make = _make_opd_trainer if isinstance(config, OPDConfig) else _make_rl_trainer
    common: dict[str, Any] = {
        "model": loaded.student,
        "args": config,
        "train_dataset": loaded.dataset,
        "eval_dataset": loaded.evaluation,
        "processing_class": loaded.tokenizer,
        "evaluation_reward": rewards if loaded.evaluation is not None else None,
    }
    kept = config.model_init_kwargs
    try:
        return make(config, loaded, rewards, common)
    except EffOPDError:
        raise
    except OSError as error:
        if not is_of_a_server(error):
            raise
        raise ServerError(f"Training needs a server: {named(error)}. Start it, and give the same command.") from error
    except (ValueError, ImportError) as error:  # how TRL and transformers refuse settings
        raise ConfigurationError(f"These settings cannot be trained with: {error}") from error
    finally:
        config.model_init_kwargs = kept or None


def _make_opd_trainer(config: Any, loaded: Loaded, rewards: Any, common: dict[str, Any]) -> OPDTrainer:
    kept = config.teacher_model_init_kwargs
    # The models are loaded already, and TRL warns when it is given these as well.
    config.model_init_kwargs = config.teacher_model_init_kwargs = None
    trainer = OPDTrainer(teacher_model=loaded.teacher, reference_model=loaded.reference, **common)
    config.teacher_model_init_kwargs = kept or None
    return trainer


def _make_rl_trainer(config: Any, loaded: Loaded, rewards: Any, common: dict[str, Any]) -> RLTrainer:
    revision = (config.model_init_kwargs or {}).get("revision")
    # By this TRL loads the reference model of the KL term; dtype and attention it takes from the student.
    config.model_init_kwargs = {"revision": revision} if revision else None
    critic = Critic(loaded.student) if config.method == "ppo" else None
    return RLTrainer(reward_funcs=rewards, critic=critic, **common)


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
