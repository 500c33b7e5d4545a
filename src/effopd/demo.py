"""`effopd demo`: vanilla OPD against EffOPD on the embedded world, to the same accuracy, every cost counted."""

import logging
import shlex
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from rich.table import Table
from transformers import TrainerCallback

from effopd.files import write_json
from effopd.report.curves import accuracy_figure
from effopd.study.speed import cost_range, median_estimate, ratio_estimate, to_target
from effopd.training.config import OPDConfig, RunArguments
from effopd.training.metrics import MetricsCallback
from effopd.training.progress import RunDisplay, RunProgress
from effopd.training.quiet import quiet_libraries
from effopd.training.run import train, versions
from effopd.training.stopping import EvaluateNearTarget
from effopd.training.trainer import OPDTrainer
from effopd.world import TaskConfig, world_reward

PROMPTS_PER_STEP = 256
# The longest well-formed answer, `1,5,6,2,7;`, and a little room in which a longer one shows.
MAX_COMPLETION_LENGTH = TaskConfig().max_completion_length + 2
EVALUATION_PROBLEMS = 512
TARGET_ACCURACY = 0.95
LEARNING_RATE = 1e-4
MAX_STEPS = 400
SAVE_STEPS = 10
LABELS = {"none": "vanilla", "paper": "EffOPD"}
NOTE = (
    "Rollouts include those that EffOPD validated by; seconds leave out measuring the accuracy. "
    f"{LEARNING_RATE:g} is a conservative learning rate here, as the paper's is for its models, and the ratio depends "
    "on it: benchmarks/results/speedup.md has the whole row, with intervals. To see it yourself:"
)
WHOLE_ROW = "effopd demo --out runs/row --learning-rate 3e-5 1e-4 3e-4 1e-3 --seeds 3"
# The median of an even number of counts may end in .5.
COUNT = ",.10g"
SUMMARY_KEYS = (
    "steps_to_target",
    "rollouts_to_target",
    "generated_tokens_to_target",
    "seconds_to_target",
    "validation_rollouts",
    "num_accepted",
    "final_accuracy",
)


def world_run(
    directory: Path,
    *,
    acceleration: str,
    learning_rate: float,
    seed: int,
    target_accuracy: float = TARGET_ACCURACY,
    prompts_per_step: int = PROMPTS_PER_STEP,
    evaluation_problems: int = EVALUATION_PROBLEMS,
    max_steps: int = MAX_STEPS,
    save_steps: int | None = SAVE_STEPS,
) -> tuple[RunArguments, OPDConfig]:
    """Settings of one run on the embedded world that stops at a target accuracy.

    Args:
        directory: Run directory.
        acceleration: `none` or an EffOPD preset.
        learning_rate: Constant, without warm-up.
        seed: Of the order of the prompts, of sampling, and of the choice of validation prompts.
        target_accuracy: Where the run stops.
        prompts_per_step: One completion each; above 256, a multiple of 256.
        evaluation_problems: The same for every run.
        max_steps: Where it stops short of the target.
        save_steps: Steps between checkpoints; None: none are saved.
    """
    micro_batch = min(PROMPTS_PER_STEP, prompts_per_step)
    arguments = RunArguments(
        model_name_or_path="world:base",
        dataset_name="world:train",
        reward=["world"],
        evaluation_dataset_name="world:evaluation",
        num_evaluation_examples=evaluation_problems,
        acceleration=acceleration,
        target_accuracy=target_accuracy,
    )
    config = OPDConfig(
        output_dir=str(directory),
        teacher_model_name_or_path="world:teacher",
        learning_rate=learning_rate,
        lr_scheduler_type="constant",
        seed=seed,
        max_steps=max_steps,
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=prompts_per_step // micro_batch,
        beta=1.0,
        temperature=1.0,
        max_completion_length=MAX_COMPLETION_LENGTH,
        bf16=False,
        gradient_checkpointing=False,
        logging_steps=1,
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        save_strategy="no" if save_steps is None else "steps",
        save_steps=save_steps or 1,
        save_total_limit=1,
    )
    return arguments, config


class Settings(NamedTuple):
    """What the demo's runs share."""

    learning_rates: tuple[float, ...]
    target_accuracy: float
    prompts_per_step: int
    evaluation_problems: int
    max_steps: int
    save_steps: int


FULL = Settings((LEARNING_RATE,), TARGET_ACCURACY, PROMPTS_PER_STEP, EVALUATION_PROBLEMS, MAX_STEPS, SAVE_STEPS)
QUICK = FULL._replace(target_accuracy=0.7, evaluation_problems=128)


def run_demo(
    out: Path, *, seeds: int = 1, learning_rates: Sequence[float] | None = None, quick: bool = False
) -> dict[str, Any]:
    """Train with and without EffOPD until the target accuracy, and compare what it cost.

    Finished runs in `out` are used again; one that was interrupted continues from its last checkpoint.

    Args:
        out: Gets `summary.json`, `accuracy.svg`, `accuracy.png` and a run directory for each run in `runs/`.
        seeds: Runs with seeds 0 to `seeds - 1`.
        learning_rates: Each is run with every seed; `LEARNING_RATE` when omitted.
        quick: A lower target, measured on fewer problems: a smoke test.

    Returns:
        The contents of `summary.json`: `target_accuracy`, `runs`, `versions`, `command`. Costs of a run are None
        where it did not reach the target.

    Raises:
        ConfigurationError: `out` holds runs with other settings.
    """
    settings = QUICK if quick else FULL
    if learning_rates:
        settings = settings._replace(learning_rates=tuple(dict.fromkeys(learning_rates)))
    display = RunDisplay()
    console = display.console
    with _messages_to(lambda text: console.print(text, soft_wrap=True)), quiet_libraries(), display:
        runs = [
            _do_run(out, acceleration, rate, seed, settings, display)
            for rate in settings.learning_rates
            for seed in range(seeds)
            for acceleration in LABELS
        ]
    keys = ("name", "acceleration", "learning_rate", "seed", *SUMMARY_KEYS)
    summary = {
        "target_accuracy": settings.target_accuracy,
        "runs": [{key: run[key] for key in keys} for run in runs],
        "versions": versions(),
        "command": _command(out, seeds, learning_rates, quick),
    }
    write_json(out / "summary.json", summary)
    figures = accuracy_figure(runs, settings.target_accuracy, out / "accuracy.svg")
    console.print()
    console.print(_table(runs, settings))
    console.print(NOTE)
    console.print(f"    {WHOLE_ROW}\n", soft_wrap=True)
    for label, place in (
        ("Numbers", out / "summary.json"),
        ("Figure", " and ".join(map(str, figures))),
        ("Runs", f"{out / 'runs'} (every step in metrics.jsonl)"),
    ):
        console.print(f"{label + ':':9}{place}", soft_wrap=True)
    return summary


def _do_run(
    out: Path, acceleration: str, rate: float, seed: int, settings: Settings, display: RunDisplay
) -> dict[str, Any]:
    """One run, or what is left of it: its identity, its results and its rows."""
    name = f"{LABELS[acceleration].lower()}-lr{rate:g}-seed{seed}"
    title = f"{LABELS[acceleration]} lr {rate:g} seed {seed}"
    directory = out / "runs" / name
    target = settings.target_accuracy
    arguments, config = world_run(
        directory,
        acceleration=acceleration,
        learning_rate=rate,
        seed=seed,
        target_accuracy=target,
        prompts_per_step=settings.prompts_per_step,
        evaluation_problems=settings.evaluation_problems,
        max_steps=settings.max_steps,
        save_steps=settings.save_steps,
    )

    def callbacks(trainer: OPDTrainer, metrics: MetricsCallback) -> list[TrainerCallback]:
        return [
            EvaluateNearTarget(trainer, target, world_reward),
            RunProgress(display, title, trainer, metrics, target),
        ]

    rows = train(arguments, config, callbacks)
    for checkpoint in directory.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    return {
        "name": name,
        "acceleration": acceleration,
        "learning_rate": rate,
        "seed": seed,
        **to_target(rows, target),
        "rows": rows,
    }


def _table(runs: Sequence[dict[str, Any]], settings: Settings) -> Table:
    """Costs by learning rate and method, and their ratio; medians where there are several seeds."""
    seeds = sorted({run["seed"] for run in runs})
    table = Table(
        title=f"Cost of reaching an accuracy of {settings.target_accuracy:g}"
        + (f", median of {len(seeds)} seeds" if len(seeds) > 1 else ""),
        title_style="bold",
    )
    table.add_column("learning rate")
    table.add_column("method")
    for column in ("steps", "rollouts", "of which validation", "seconds"):
        table.add_column(column, justify="right")
    quantities = ("steps_to_target", "rollouts_to_target", "seconds_to_target")
    for rate in settings.learning_rates:
        groups = {
            acceleration: [run for run in runs if run["learning_rate"] == rate and run["acceleration"] == acceleration]
            for acceleration in LABELS
        }
        costs = {
            acceleration: [[cost_range(run, quantity) for run in group] for quantity in quantities]
            for acceleration, group in groups.items()
        }
        for acceleration, group in groups.items():
            steps, rollouts, seconds = (
                median_estimate(cost).format(spec, interval=False)
                for cost, spec in zip(costs[acceleration], (COUNT, COUNT, ",.0f"), strict=True)
            )
            validation = f"{median(run['validation_rollouts'] for run in group):{COUNT}}"
            table.add_row(f"{rate:g}", LABELS[acceleration], steps, rollouts, validation, seconds)
        ratios = [
            ratio_estimate(*pair).format(".1f", interval=False).replace("?", "unknown")
            for pair in zip(costs["none"], costs["paper"], strict=True)
        ]
        table.add_row("", "ratio", ratios[0], ratios[1], "", ratios[2], style="bold", end_section=True)
    return table


def _command(out: Path, seeds: int, learning_rates: Sequence[float] | None, quick: bool) -> str:
    words = ["effopd", "demo", "--out", str(out), "--seeds", str(seeds)]
    if learning_rates:
        words += ["--learning-rate", *(f"{rate:g}" for rate in learning_rates)]
    return shlex.join([*words, "--quick"] if quick else words)


@contextmanager
def _messages_to(show: Callable[[str], None]) -> Iterator[None]:
    """Within the context, show what this package logs by `show`, so that it does not tear the progress bars."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            show(record.getMessage())

    logger, handler = logging.getLogger("effopd"), Handler()
    logger.addHandler(handler)
    propagate, logger.propagate = logger.propagate, False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate
