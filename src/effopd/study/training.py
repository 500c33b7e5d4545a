"""One training run of a study, in a directory of its own, by the functions that `effopd train` uses."""

from dataclasses import replace
from pathlib import Path

from transformers.trainer_utils import IntervalStrategy

from effopd.experiments.arguments import world_rl_arguments, world_run_arguments
from effopd.study.difficulty import write_thirds
from effopd.study.plan import Training
from effopd.training.config import EXOPD_LAMBDA, OPDConfig, RunArguments
from effopd.training.progress import RunDisplay, RunProgress
from effopd.training.quiet import quiet_libraries
from effopd.training.rl_config import RLConfig
from effopd.training.run import train
from effopd.world import card


def do_training(training: Training, directory: Path) -> None:
    """Do a run, or what is left of it. Optimizer states of finished runs are removed.

    Raises:
        EffOPDError: It cannot be done, or has diverged, or the directory holds another run.
    """
    with quiet_libraries(), RunDisplay() as display:
        arguments, config = (_reinforcement if training.plan.is_rl else _distillation)(training, directory)
        train(arguments, config, lambda trainer, metrics: [RunProgress(display, training.name, trainer, metrics)])
    for state in directory.glob("checkpoint-*/optimizer.pt"):
        state.unlink()  # two thirds of the bytes


def _reinforcement(training: Training, directory: Path) -> tuple[RunArguments, RLConfig]:
    reward = training.plan.reward
    save_steps = training.save_steps or max(1, training.steps // 10)
    arguments, config = world_rl_arguments(
        directory,
        world=training.world,
        method=training.plan.method,
        reward=reward if reward == "world" else f"effopd.study.sparse_reward:{reward}",
        seed=training.seed,
        max_steps=training.steps,
        save_steps=save_steps,
    )
    if training.save_steps is None:
        config.save_total_limit = 1
    return arguments, config


def _distillation(training: Training, directory: Path) -> tuple[RunArguments, OPDConfig]:
    plan = training.plan
    arguments, config = world_run_arguments(
        directory,
        world=training.world,
        acceleration=plan.acceleration,
        learning_rate=training.learning_rate,
        seed=training.seed,
        prompts_per_step=training.prompts_per_step,
        evaluation_problems=training.evaluation_problems,
        max_steps=training.steps,
        save_steps=training.save_steps,
    )
    arguments = replace(
        arguments, target_accuracy=None, extrapolation=dict(plan.extrapolation) if plan.extrapolation else None
    )
    if plan.validation:
        thirds = write_thirds(training.world, directory.parent.parent / "validation", training.thirds)
        arguments = replace(arguments, validation_dataset_name=str(thirds[plan.validation]))
    if plan.method == "alphaopd":
        arguments.alphaopd_target = card(training.world)["teacher"]["sampled_accuracy"]["accuracy"]
        # Its fit is of an early window: five checkpoints of it, each with its accuracy.
        every = training.evaluate_every
        training = replace(training, save_steps=max(every, training.steps // 5 // every * every))
    config.method = plan.method
    if plan.method == "exopd":
        config.exopd_lambda = EXOPD_LAMBDA
    config.eval_strategy = config.save_strategy = IntervalStrategy.STEPS
    config.eval_steps = min(training.evaluate_every, training.steps)
    if training.save_steps is None:  # for resuming only
        config.save_steps, config.save_total_limit = max(1, training.steps // 10), 1
    else:
        config.save_steps, config.save_total_limit = training.save_steps, None
    return arguments, config
