"""From a configuration to a trainer: check the settings, load what they name, and wire it up."""

import logging
from typing import Any

from transformers import TrainerCallback

from effopd.errors import ConfigurationError, EffOPDError, ServerError
from effopd.extrapolation.callback import EffOPDCallback
from effopd.training.alphaopd import check_alphaopd
from effopd.training.complete_checkpoints import check_zero_saves
from effopd.training.config import OPDConfig, RunArguments
from effopd.training.critic import Critic
from effopd.training.failures import is_of_a_server, named
from effopd.training.load import Loaded, load
from effopd.training.metrics import MetricsCallback
from effopd.training.monitor import NUM_MATRICES, UpdateMonitorCallback
from effopd.training.rewards import RewardFunction, check_arguments, resolve_rewards
from effopd.training.rl_config import RLConfig, TrainConfig
from effopd.training.rl_trainer import RLTrainer
from effopd.training.stopping import StopAtAccuracy, StopWithoutImprovement
from effopd.training.trainer import OPDTrainer

logger = logging.getLogger(__name__)


def build_trainer(arguments: RunArguments, config: TrainConfig) -> tuple[OPDTrainer | RLTrainer, MetricsCallback]:
    """Load everything that a run needs, and check that it fits together.

    Raises:
        ConfigurationError: Settings, vocabularies or rewards do not fit.
        DataError: A model or dataset is not what it should be.
    """
    _check_settings(arguments, config)
    rewards = resolve_rewards(arguments.reward) if arguments.reward else None
    return _wire(arguments, config, load(arguments, config), rewards)


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
    # Runs to a target may be evaluated by a callback of the caller's, as those of the demo are.
    if config.eval_strategy == "no" and arguments.evaluation_dataset_name and arguments.target_accuracy is None:
        logger.warning('No accuracy will be measured, because eval_strategy is "no". Set it to "steps" or "epoch".')
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


def _wire(
    arguments: RunArguments, config: TrainConfig, loaded: Loaded, rewards: list[RewardFunction] | None
) -> tuple[OPDTrainer | RLTrainer, MetricsCallback]:
    """Make the trainer from what was loaded, and add its callbacks in their order."""
    if arguments.eos_token is not None and config.use_vllm:  # which loads a tokenizer of its own
        own = {"stop_token_ids": [loaded.tokenizer.eos_token_id]}
        config.generation_kwargs = own | dict(config.generation_kwargs or {})
    trainer = _make_trainer(config, loaded, rewards)
    check_zero_saves(trainer)
    effopd = monitor = stop = early = None
    if settings := arguments.extrapolation_config():
        judge = rewards if settings.validator == "reward" else None
        effopd = EffOPDCallback(trainer, judge, preset=settings, validation_dataset=loaded.validation)
    if rewards and (isinstance(config, RLConfig) or loaded.evaluation is not None):  # else they are not called
        check_arguments(rewards, loaded.dataset if isinstance(config, RLConfig) else loaded.evaluation)
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
    except (ValueError, ImportError, RuntimeError) as error:  # how TRL and transformers refuse settings
        if isinstance(error, RuntimeError) and "to be installed" not in str(error):  # a logger that is missing
            raise
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
