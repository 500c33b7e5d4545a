"""One run of `diagnostics.py`: signals of the weight update early in training, and what became of the run."""

import math
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from run_records import Record
from torch import Tensor
from transformers import PrinterCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from typing_extensions import override

from effopd.errors import DataError, DivergedError
from effopd.experiments.arguments import world_run_arguments
from effopd.files import finite_or_none
from effopd.parameters import locate, select
from effopd.training.metrics import MetricsCallback
from effopd.training.quiet import quiet_libraries
from effopd.training.run import train, versions
from effopd.training.trainer import OPDTrainer
from effopd.updates import displacement_cosine, nested_alignment, singular_vectors, spectrum
from effopd.world import card, make_dataset, task_config
from effopd.world.evaluate import measure_accuracy

SIGNALS = (
    "direction_cosine",
    "top1pct_norm_ratio",
    "effective_rank",
    "first_vector_alignment",
    "subspace_alignment",
    "embedding_share",
    "update_norm",
)
NUM_VECTORS = 5  # of the subspaces that are compared; chance is sqrt(5 / 128) = 0.2 in the worlds' models
FALL = 0.05
EVALUATED = (1 / 8, 1 / 4, 1 / 2, 1)  # shares of a run after which accuracy is measured
JUMPS = (2, 4)  # multiples of the final displacement
Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Run:
    """One training run of vanilla on-policy distillation: everything that decides its outcome but the packages."""

    world: str
    learning_rate: float
    seed: int
    steps: int
    prompts_per_step: int
    evaluation_problems: int

    @property
    def early(self) -> tuple[int, int]:
        """Steps at which signals are taken: after an eighth and a quarter of the run."""
        return self.steps // 8, self.steps // 4

    @property
    def name(self) -> str:
        return f"{self.world}-lr{self.learning_rate:g}-s{self.seed}"

    @property
    def expected_cost(self) -> float:
        """Completions that are sampled; those of training cost about three times as much."""
        trained = 3.0 * self.steps * self.prompts_per_step
        return trained + (len(EVALUATED) + len(JUMPS)) * self.evaluation_problems


def do_run(run: Run, directory: Path) -> Record:
    """Train, in a worker process; returns the record."""
    started = time.process_time()
    shutil.rmtree(directory, ignore_errors=True)
    arguments, config = world_run_arguments(
        directory,
        acceleration="none",
        learning_rate=run.learning_rate,
        seed=run.seed,
        prompts_per_step=run.prompts_per_step,
        max_steps=run.steps,
        save_steps=None,
        world=run.world,
    )
    arguments.target_accuracy = None
    watching: list[Watch] = []

    def callbacks(trainer: OPDTrainer, metrics: MetricsCallback) -> list[TrainerCallback]:
        trainer.remove_callback(PrinterCallback)
        watching.append(Watch(trainer, run))
        return list(watching)

    diverged = False
    try:
        with quiet_libraries():
            train(arguments, config, callbacks)
    except DivergedError:  # an outcome like others
        diverged = True
    shutil.rmtree(directory)
    return {
        "run": asdict(run),
        **watching[0].outcome(diverged),
        "cpu_seconds": time.process_time() - started,
        "versions": versions(),
    }


class Watch(TrainerCallback):
    """Measures the update early in training, the accuracy during it, and the accuracy after jumps at its end."""

    def __init__(self, trainer: OPDTrainer, run: Run) -> None:
        self.model = trainer.accelerator.unwrap_model(trainer.model)
        self.tokenizer, self.run = trainer.processing_class, run
        self.problems = make_dataset("evaluation", run.evaluation_problems, config=task_config(run.world))
        self.kept: dict[int, Weights] = {0: self._weights()}
        self.signals: dict[str, dict[str, float | None]] = {}
        self.accuracies: list[list[float]] = []
        self.jumps: dict[str, float | None] = {}

    @override
    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.accuracies.append([0, card(self.run.world)["base"]["sampled_accuracy"]["accuracy"]])

    @override
    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        step, run = state.global_step, self.run
        if step in {at for end in run.early for at in (end // 2, end)}:
            self.kept[step] = self._weights()
        if step in run.early:
            self.signals[str(step)] = early_signals(self.kept[0], self.kept[step // 2], self.kept[step])
        if step in {round(share * run.steps) for share in EVALUATED}:
            self.accuracies.append([step, self._accuracy()])
        if step == run.steps:
            self._jump()

    def outcome(self, diverged: bool) -> Record:
        """What was measured, and whether the run fell or diverged. A run that diverged has an accuracy of 0."""
        values = [accuracy for _, accuracy in self.accuracies]
        fall = max((best - now for best, now in zip(accumulate(values, max), values, strict=True)), default=0.0)
        return {
            "signals": self.signals,
            "accuracies": self.accuracies,
            "final_accuracy": 0.0 if diverged else values[-1],
            "jumped_accuracy": self.jumps,
            "diverged": diverged,
            "largest_fall": fall,
            "unstable": diverged or fall > FALL,
        }

    def _weights(self) -> Weights:
        return {name: weight.detach().clone() for name, weight in self.model.named_parameters()}

    def _accuracy(self) -> float:
        return float(measure_accuracy(self.model, self.tokenizer, self.problems)["accuracy"])

    def _jump(self) -> None:
        """Measure W_0 + factor * (W_T - W_0), and put W_T back. A candidate without finite logits has 0."""
        final, base = self._weights(), self.kept[0]
        for factor in JUMPS:
            with torch.no_grad():
                for name, weight in self.model.named_parameters():
                    weight.copy_(base[name].lerp(final[name], factor))
            try:
                self.jumps[str(factor)] = self._accuracy()
            except RuntimeError:  # torch.multinomial, of probabilities that are not finite
                self.jumps[str(factor)] = 0.0
        with torch.no_grad():
            for name, weight in self.model.named_parameters():
                weight.copy_(final[name])


def early_signals(base: Weights, half: Weights, now: Weights) -> dict[str, float | None]:
    """Compute `SIGNALS` from the weights before training, at half of a number of steps, and after it.

    Those of directions and spectra are over all attention and MLP matrices, as means over matrices but for the cosine.
    They are what a monitor with `every` half the number of steps has in its second row, or what `effopd analyze` has
    for two checkpoints there.

    Returns:
        By name: cosine of W_t - W_{t/2} to W_{t/2} - W_0; top-1 % ratio and effective rank of W_t - W_0; alignment of
        the first left singular vector, and of the first `NUM_VECTORS` as a subspace, with those of W_{t/2} - W_0; share
        of embedding and head in the squared norm of the whole update; and its norm relative to that of W_0. All are
        None if the weights are not finite.
    """
    names = [name for name in select(now, "attention_and_mlp") if now[name].ndim == 2]
    try:
        spectra = [spectrum(now[name].double() - base[name].double()) for name in names]
        lefts = [
            [singular_vectors(weights[name].double() - base[name].double(), NUM_VECTORS).left for name in names]
            for weights in (half, now)
        ]
    except DataError:
        return dict.fromkeys(SIGNALS)
    alignments = [
        nested_alignment(one, other) for one, other in zip(*lefts, strict=True) if one.numel() and other.numel()
    ]
    cosine = displacement_cosine(
        (now[name].double() - half[name].double(), half[name].double() - base[name].double()) for name in names
    )
    squares = {name: float((now[name].double() - base[name].double()).square().sum()) for name in now}
    outside = [name for name in now if locate(name).kind in ("embedding", "lm_head")]
    found = {
        "direction_cosine": cosine,
        "top1pct_norm_ratio": known_mean([each.top1pct_norm_ratio for each in spectra]),
        "effective_rank": known_mean([each.effective_rank for each in spectra]),
        "first_vector_alignment": known_mean([float(each[0]) for each in alignments]),
        "subspace_alignment": known_mean([float(each[-1]) for each in alignments]),
        "embedding_share": sum(squares[name] for name in outside) / sum(squares.values()),
        "update_norm": math.sqrt(sum(squares.values()) / _square(base)),
    }
    return {name: None if value is None else finite_or_none(value) for name, value in found.items()}


def known_mean(values: Sequence[float | None]) -> float | None:
    """The mean of those values that are not None; None if there are none."""
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _square(weights: Mapping[str, Tensor]) -> float:
    return sum(float(weight.double().square().sum()) for weight in weights.values())
