"""One training run of a study, in a directory of its own, by the functions that `effopd train` uses."""

from dataclasses import replace
from pathlib import Path

from transformers.trainer_utils import IntervalStrategy

from effopd.experiments.arguments import world_run_arguments
from effopd.experiments.world_runs import train_grpo
from effopd.study.plan import Training
from effopd.training.config import EXOPD_LAMBDA
from effopd.training.progress import RunDisplay, RunProgress
from effopd.training.quiet import quiet_libraries
from effopd.training.run import train
from effopd.world import TeacherConfig, card

EVALUATE_EVERY = 2


def do_training(training: Training, directory: Path) -> None:
    """Do a run, or what is left of it. Optimizer states of finished runs are removed.

    Raises:
        EffOPDError: It cannot be done, or has diverged, or the directory holds another run.
    """
    with quiet_libraries():
        if training.role == "rl":
            steps, save_steps = training.steps, training.save_steps or training.steps
            config = replace(TeacherConfig(), num_steps=steps, save_steps=save_steps)
            train_grpo(directory, training.seed, config, training.world)
        else:
            _distill(training, directory)
    for state in directory.glob("checkpoint-*/optimizer.pt"):
        state.unlink()  # two thirds of the bytes


def _distill(training: Training, directory: Path) -> None:
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
    if plan.method == "alphaopd":
        arguments.alphaopd_target = card(training.world)["teacher"]["sampled_accuracy"]["accuracy"]
        # Its fit is of an early window: five checkpoints of it, each with its accuracy.
        training = replace(training, save_steps=max(EVALUATE_EVERY, training.steps // 5 // 2 * 2))
    config.method = plan.method
    if plan.method == "exopd":
        config.exopd_lambda = EXOPD_LAMBDA
    config.eval_strategy = config.save_strategy = IntervalStrategy.STEPS
    config.eval_steps = min(EVALUATE_EVERY, training.steps)
    if training.save_steps is None:  # for resuming only
        config.save_steps, config.save_total_limit = max(1, training.steps // 10), 1
    else:
        config.save_steps, config.save_total_limit = training.save_steps, None
    with RunDisplay() as display:
        train(arguments, config, lambda trainer, metrics: [RunProgress(display, training.name, trainer, metrics)])
