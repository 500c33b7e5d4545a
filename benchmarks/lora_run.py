"""One run of `lora.py`: distillation into a LoRA adapter, and what a jump of its weights can mean there.

`product` is what effopd does: it extrapolates B A and keeps its rank. The other two are here to compare with, and in no
other place: `separate` extrapolates A and B each for itself, `folded` adds the jump of B A to the base, exactly.
"""

import gc
import shutil
import time
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from peft import LoraConfig, get_peft_model
from run_records import Record
from training_runs import CPUClock, arguments_to_target, costs_to_target, course
from transformers import PrinterCallback
from transformers.trainer_utils import IntervalStrategy

from effopd.extrapolation.callback import EffOPDCallback
from effopd.extrapolation.lora import difference
from effopd.extrapolation.lora_snapshot import LoraSnapshot
from effopd.extrapolation.records import RECORDS
from effopd.extrapolation.snapshot import Snapshot
from effopd.files import read_json_lines
from effopd.models.load import load_model, load_tokenizer
from effopd.parameters import clean_name
from effopd.training.load import load_datasets
from effopd.training.metrics import METRICS, MetricsCallback
from effopd.training.quiet import quiet_libraries
from effopd.training.rewards import resolve_rewards
from effopd.training.run import versions
from effopd.training.stopping import StopAtAccuracy, StopAtRollouts
from effopd.training.trainer import OPDTrainer

RANK, ALPHA = 8, 16  # of every linear layer but the head
Extrapolated = Literal["product", "separate", "folded"]


@dataclass(frozen=True)
class Run:
    """A training run: everything that decides its outcome but the packages.

    Attributes:
        world: Name of the embedded world.
        extrapolated: What is extrapolated; `product` where nothing is.
        acceleration: `none`, or a preset.
        seed: Random seed, also of the adapter's first factors.
        learning_rate: Learning rate.
        prompts_per_step: Prompts per step.
        target_accuracy: Accuracy at which the run stops.
        limit: Rollouts at which it is given up.
        evaluation_problems: Problems that its accuracy is measured on.
        evaluate_every: Steps between these measurements.
    """

    world: str
    extrapolated: Extrapolated
    acceleration: str
    seed: int
    learning_rate: float
    prompts_per_step: int
    target_accuracy: float
    limit: int
    evaluation_problems: int
    evaluate_every: int

    @property
    def arm(self) -> str:
        return "vanilla" if self.acceleration == "none" else f"{self.extrapolated}, {self.acceleration}"

    @property
    def name(self) -> str:
        arm = self.arm.replace(", ", "-")
        return f"{self.world}/{arm}-lr{self.learning_rate:g}-b{self.prompts_per_step}-s{self.seed}"

    @property
    def expected_cost(self) -> float:
        """Rollouts; line search takes few, and the others the more, the smaller the rate."""
        share = {1e-4: 1.0, 1e-3: 0.3, 1e-2: 0.1}.get(self.learning_rate, 1.0)
        return self.limit * (0.05 if self.acceleration == "line_search" else share)


class SeparateSnapshot(LoraSnapshot):
    """Extrapolates the two factors of each product for themselves; `truncation` is how far the product then is off."""

    def begin(self, moving: Collection[str] | None = None) -> None:
        super().begin()
        self._moving = self.parameters.keys()

    @torch.no_grad()
    def write_candidate(self, scale: float) -> None:
        Snapshot.write_candidate(self, scale)
        off, live = [], self._live()
        for pair in self.pairs.values():
            anchor, current = self._factors(self._anchor, pair), self._factors(self._current, pair)
            jump = scale * product(*anchor, *current)
            if norm := float(jump.norm()):
                off.append(float((product(*current, *self._factors(live, pair)) - jump).norm()) / norm)
        if off:
            self.truncation[scale] = (max(off), sum(off) / len(off))


class FoldedSnapshot(LoraSnapshot):
    """Adds the jump to the weights that the adapters are on, and leaves the factors as they are."""

    def __init__(self, *args: Any, bases: dict[str, torch.Tensor]) -> None:
        super().__init__(*args)
        self._bases = bases

    def begin(self, moving: Collection[str] | None = None) -> None:
        super().begin(moving)
        self._before = {module: base.clone() for module, base in self._bases.items()}

    @torch.no_grad()
    def write_candidate(self, scale: float) -> None:
        for module, pair in self.pairs.items():
            delta = product(*self._factors(self._anchor, pair), *self._factors(self._current, pair))
            self._bases[module].copy_(self._before[module] + scale * pair.scaling * delta)

    @torch.no_grad()
    def restore(self) -> None:
        super().restore()
        for module, base in self._bases.items():
            base.copy_(self._before[module])


def product(*factors: torch.Tensor) -> torch.Tensor:
    """Multiply out the difference of two products, in float64; arguments are those of `difference`."""
    delta = difference(*factors)
    return delta.left @ delta.right


class OtherExtrapolation(EffOPDCallback):
    """`EffOPDCallback` that extrapolates a LoRA adapter as a run says."""

    extrapolated: Extrapolated = "product"

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        super().on_train_begin(*args, **kwargs)
        found = self._snapshot
        assert isinstance(found, LoraSnapshot)
        if self.extrapolated == "separate":
            self._snapshot = SeparateSnapshot(found.parameters, found.pairs)
        elif self.extrapolated == "folded":
            modules = {clean_name(name): module for name, module in self.trainer.model.named_modules()}
            bases = {name: modules[name].base_layer.weight.data for name in found.pairs}
            self._snapshot = FoldedSnapshot(found.parameters, found.pairs, bases=bases)


def make_trainer(run: Run, directory: Path) -> OPDTrainer:
    """Load the world, put an adapter on its base, and wire everything up as `effopd train` does."""
    arguments, config = arguments_to_target(run, directory, world=run.world, acceleration=run.acceleration)
    config.per_device_eval_batch_size = 512  # as few prompts per step would make evaluation dearer than training
    config.eval_strategy, config.eval_steps = IntervalStrategy.STEPS, run.evaluate_every
    dataset, evaluation = load_datasets(arguments)
    rewards = resolve_rewards(arguments.reward)
    torch.manual_seed(run.seed)
    adapter = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM")
    trainer = OPDTrainer(
        model=get_peft_model(load_model(arguments.model_name_or_path), adapter),
        teacher_model=load_model(config.teacher_model_name_or_path),
        args=config,
        train_dataset=dataset,
        eval_dataset=evaluation,
        processing_class=load_tokenizer(arguments.model_name_or_path),
        evaluation_reward=rewards,
    )
    trainer.remove_callback(PrinterCallback)
    effopd = None
    if settings := arguments.extrapolation_config():
        by_reward = settings.validator == "reward"
        effopd = OtherExtrapolation(trainer, rewards if by_reward else None, preset=settings)
        effopd.extrapolated = run.extrapolated
    metrics = MetricsCallback(trainer, effopd)
    stops = [StopAtAccuracy(run.target_accuracy), StopAtRollouts(metrics, run.limit)]
    for callback in (effopd, metrics, *stops):
        if callback:
            trainer.add_callback(callback)
    return trainer


def do_run(run: Run, directory: Path) -> Record:
    """Train, in a worker process; returns the record."""
    started, clock = time.perf_counter(), CPUClock()
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    with quiet_libraries():
        trainer = make_trainer(run, directory)
        clock.watch(trainer)
        trainer.train()
    rows = read_json_lines(directory / METRICS)
    triggers = read_json_lines(directory / RECORDS) if (directory / RECORDS).exists() else []
    shutil.rmtree(directory)
    gc.collect()
    result = costs_to_target(rows, run.target_accuracy, clock)
    return {
        "run": asdict(run),
        **result,
        "cpu_seconds_per_step": clock.seconds / rows[-1]["step"],
        **course(rows, clock, started),
        "candidates": list(map(candidates, triggers)),
        "versions": versions(),
    }


def candidates(trigger: Record) -> dict[str, Any]:
    """What a record keeps of a trigger: each candidate's scale, whether it was accepted, and the mean share it lost."""
    return {
        "step": trigger["step"],
        "accepted_scale": trigger["accepted_scale"],
        "tried": [
            [each["scale"], each["accepted"], each["truncation"] and each["truncation"]["mean"]]
            for each in trigger["candidates"]
        ],
    }
