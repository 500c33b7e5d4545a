"""`effopd demo`: vanilla OPD against EffOPD on the embedded world, to the same accuracy, with every cost counted."""

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

from effopd.checks import check_number
from effopd.console import print_places
from effopd.experiments.arguments import (
    EVALUATION_PROBLEMS,
    MAX_STEPS,
    PROMPTS_PER_STEP,
    SAVE_STEPS,
    TARGET_ACCURACY,
    world_run_arguments,
)
from effopd.experiments.censored_statistics import median_cost, median_cost_ratio
from effopd.experiments.cost_to_target import cost_range, to_target
from effopd.files import write_json
from effopd.report.curves import accuracy_figure
from effopd.training.metrics import MetricsCallback
from effopd.training.progress import RunDisplay, RunProgress
from effopd.training.quiet import quiet_libraries
from effopd.training.run import train, versions
from effopd.training.stopping import EvaluateNearTarget
from effopd.training.trainer import OPDTrainer
from effopd.world import world_reward

LABELS = {"none": "vanilla", "paper": "EffOPD"}
# What a careful user would take: half a decade below the best of a search (1e-3), a whole one below where training
# becomes unstable.
LEARNING_RATE = 3e-4
NOTE = (
    "Rollouts include those with which EffOPD validates; seconds do not include measuring the accuracy. "
    f"A learning rate of {LEARNING_RATE:g} is a careful one. The lower the rate, the more EffOPD saves; at the best "
    "rate it saves nothing: benchmarks/results/speedup.md has the ratios for all rates, with intervals. To see them "
    "yourself, run"
)
WHOLE_ROW = "effopd demo --out runs/row --learning-rate 3e-5 1e-4 3e-4 1e-3 --seeds 3"
COUNT = ",.10g"  # the median of an even number of counts may end in .5
SUMMARY_KEYS = (
    "steps_to_target",
    "rollouts_to_target",
    "generated_tokens_to_target",
    "seconds_to_target",
    "validation_rollouts",
    "num_accepted",
    "final_accuracy",
)


class DemoSettings(NamedTuple):
    """What all runs of the demo share.

    Attributes:
        learning_rates: Learning rates to compare the methods at.
        target_accuracy: Accuracy at which the runs stop, in [0, 1].
        prompts_per_step: Number of prompts per optimizer step, with one completion each.
        evaluation_problems: Number of problems on which the accuracy is measured.
        max_steps: Number of steps after which a run stops short of the target.
        save_steps: Number of steps between checkpoints.
    """

    learning_rates: tuple[float, ...]
    target_accuracy: float
    prompts_per_step: int
    evaluation_problems: int
    max_steps: int
    save_steps: int


FULL = DemoSettings((LEARNING_RATE,), TARGET_ACCURACY, PROMPTS_PER_STEP, EVALUATION_PROBLEMS, MAX_STEPS, SAVE_STEPS)
QUICK = FULL._replace(target_accuracy=0.7, evaluation_problems=128)


def run_demo(
    out: Path, *, seeds: int = 1, learning_rates: Sequence[float] | None = None, quick: bool = False
) -> dict[str, Any]:
    """Train with and without EffOPD until the target accuracy is reached, and compare what it cost.

    Finished runs in `out` are used again. A run that was interrupted continues from its last checkpoint.

    Args:
        out: Directory for `summary.json`, `accuracy.svg`, `.pdf` and `.png`, and `runs/` with a directory for each run.
        seeds: Number of training seeds, which are 0 to `seeds - 1`.
        learning_rates: Learning rates, each of which is run with every seed; None stands for `LEARNING_RATE` alone.
        quick: Whether to train to a lower target and measure it on fewer problems, as a smoke test.

    Returns:
        The contents of `summary.json`: `target_accuracy`, `runs`, `versions`, `command`. The costs of a run that did
        not reach the target are None.

    Raises:
        ConfigurationError: A learning rate is not above 0, or `out` holds runs with other settings.
    """
    settings = QUICK if quick else FULL
    for rate in learning_rates or ():
        check_number("learning_rates", rate, above=0)
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
    places = {
        "Numbers": out / "summary.json",
        "Figure": " and ".join(map(str, figures)),
        "Runs": f"{out / 'runs'} (every step in metrics.jsonl)",
    }
    print_places(console, places)
    return summary


def _do_run(
    out: Path, acceleration: str, rate: float, seed: int, settings: DemoSettings, display: RunDisplay
) -> dict[str, Any]:
    """Do one run, or what is left to do of it, and return its identity, its results and its rows."""
    name = f"{LABELS[acceleration].lower()}-lr{rate:g}-seed{seed}"
    title = f"{LABELS[acceleration]} lr {rate:g} seed {seed}"
    directory = out / "runs" / name
    target = settings.target_accuracy
    arguments, config = world_run_arguments(
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


def _table(runs: Sequence[dict[str, Any]], settings: DemoSettings) -> Table:
    """Make the table of costs by learning rate and method, and of their ratios; with several seeds, of medians."""
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
                median_cost(cost).format(spec, interval=False)
                for cost, spec in zip(costs[acceleration], (COUNT, COUNT, ",.0f"), strict=True)
            )
            validation = f"{median(run['validation_rollouts'] for run in group):{COUNT}}"
            table.add_row(f"{rate:g}", LABELS[acceleration], steps, rollouts, validation, seconds)
        ratios = [
            median_cost_ratio(*pair).format(".1f", interval=False).replace("?", "unknown")
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
    """Show what this package logs with `show` until the block ends, so that it does not tear the progress bars."""

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
