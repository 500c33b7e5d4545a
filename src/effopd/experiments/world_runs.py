"""`effopd world runs`: runs of OPD, EffOPD and GRPO from the shipped base, whose checkpoints are kept for analysis."""

from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import NamedTuple

import torch
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer

from effopd.errors import CheckpointError, ConfigurationError
from effopd.experiments.arguments import world_run_arguments
from effopd.files import read_json, write_json
from effopd.run_directory import differing_settings, locked, written_whole
from effopd.training.progress import RunDisplay, RunProgress
from effopd.training.quiet import quiet_libraries
from effopd.training.run import FINISHED, train
from effopd.world import TeacherConfig, base_dir, make_dataset, task_config
from effopd.world.teacher import train_teacher

LEARNING_RATE = 1e-4  # low enough for the geometry of training to show over many checkpoints


class WorldRunSteps(NamedTuple):
    """For each method, the number of steps of a run, and the number of steps between its checkpoints."""

    opd: tuple[int, int] = (128, 8)
    effopd: tuple[int, int] = (32, 2)
    grpo: tuple[int, int] = (100, 10)


def world_runs(out: Path, *, seeds: int = 3, steps: WorldRunSteps | None = None) -> dict[str, Path]:
    """Train with every method and seed. Finished runs are used again.

    OPD and EffOPD learn from the shipped teacher. GRPO learns from the verifiable reward, as that teacher did; with
    seed 0, it repeats the teacher's own run.

    Args:
        out: Directory for the runs, each in a directory with `checkpoint-N` folders (without the state of the
            optimizer) and the final model.
        seeds: Number of training seeds, which are 0 to `seeds - 1`.
        steps: Numbers of steps; None takes the defaults.

    Returns:
        The directories of the runs by name: `opd-0`, `effopd-0`, `grpo-0`, `opd-1`, ...

    Raises:
        ConfigurationError: `out` holds runs with other settings.
        DataError: Another command is writing to `out`.
    """
    out.mkdir(parents=True, exist_ok=True)
    with locked(out):
        return _world_runs(out, seeds, steps or WorldRunSteps())


def _world_runs(out: Path, seeds: int, steps: WorldRunSteps) -> dict[str, Path]:
    runs: dict[str, Path] = {}
    console = Console(highlight=False)
    for seed, (method, (num_steps, save_steps)) in product(range(seeds), steps._asdict().items()):
        name = f"{method}-{seed}"
        runs[name] = out / name
        with quiet_libraries():
            if method == "grpo":
                train_grpo(out / name, seed, replace(TeacherConfig(), num_steps=num_steps, save_steps=save_steps))
            else:
                _train_opd(out / name, "none" if method == "opd" else "paper", seed, num_steps, save_steps)
        for state in out.glob(f"{name}/checkpoint-*/optimizer.pt"):
            state.unlink()  # these are two thirds of the bytes
        console.print(f"{name}: {len(list(runs[name].glob('checkpoint-*')))} checkpoints in {runs[name]}")
    return runs


def _train_opd(directory: Path, acceleration: str, seed: int, steps: int, save_steps: int) -> None:
    arguments, config = world_run_arguments(
        directory,
        acceleration=acceleration,
        learning_rate=LEARNING_RATE,
        seed=seed,
        max_steps=steps,
        save_steps=save_steps,
    )
    arguments.target_accuracy = None
    config.save_total_limit = None
    config.eval_strategy, config.eval_steps = "steps", save_steps
    with RunDisplay() as display:
        train(arguments, config, lambda trainer, metrics: [RunProgress(display, directory.name, trainer, metrics)])


def train_grpo(directory: Path, seed: int, config: TeacherConfig) -> None:
    """Train the shipped base by GRPO on the verifiable reward, and keep checkpoints. A finished run is left as it is.

    Args:
        directory: Directory for the run. It is there only once the run is finished, so that an interrupted one begins
            anew.
        seed: Random seed for the problems and of TRL's trainer.
        config: Settings of the training, of which `twin_reliability` has no effect.

    Raises:
        CheckpointError: The directory holds something else.
        ConfigurationError: The directory holds a run with other settings.
    """
    settings = asdict(config) | {"seed": seed}
    if (directory / FINISHED).exists():
        if changed := differing_settings(read_json(directory / FINISHED).get("settings", {}), settings):
            raise ConfigurationError(
                f"{directory} holds a run with other settings: {'; '.join(changed)}. Choose another --out."
            )
        return
    if directory.exists() and any(directory.iterdir()):
        raise CheckpointError(
            f"{directory} is not empty and holds no run of `effopd world runs`. Choose another --out."
        )
    base, task = base_dir(), task_config()
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(base)
    dataset = make_dataset("train", config.num_steps * config.prompts_per_step, seed, task)
    with written_whole(directory) as partial:
        arguments = (config, seed, task.max_completion_length, partial, True)
        rewards = train_teacher(model, tokenizer, dataset, *arguments, save_checkpoints=True)
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        write_json(partial / FINISHED, {"settings": settings, "rewards": rewards})
