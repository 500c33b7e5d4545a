"""One run of `what_to_move.py`: its settings, the models it needs that no world has, and training to a target."""

import gc
import random
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from run_records import Record
from training_runs import CPUClock, arguments_to_target, costs_to_target, course
from transformers import PreTrainedModel, PrinterCallback, TrainerCallback
from transformers.trainer_utils import IntervalStrategy

from effopd.experiments.arguments import world_run_arguments
from effopd.files import read_json, write_json
from effopd.models.load import load_model, load_tokenizer
from effopd.run_directory import written_whole
from effopd.training.freezing import LOW_UTILITY, early_moves
from effopd.training.metrics import MetricsCallback
from effopd.training.quiet import quiet_libraries
from effopd.training.run import FINISHED, train, versions
from effopd.training.stopping import StopAtRollouts
from effopd.training.trainer import OPDTrainer
from effopd.updates.assemble import write_tables
from effopd.updates.jobs import measure_runs
from effopd.utility import utilities
from effopd.world import DEFAULT_WORLD, make_dataset, measure_accuracy, task_config

TUNING_SEED = 100  # of everything that is made before the runs
EARLY_STEPS = 4  # after which the checkpoint is analysed that says which parameters are low-utility
WEAK_SHARE = 0.5  # of the way from the base to the teacher, at which the weaker teacher is
SFT_EXAMPLES, SFT_BATCH, SFT_RATE = 512, 64, 3e-4
PROBLEMS = 2048  # that tell the accuracy of what is made
Frozen = Literal["low", "random", "high"]


@dataclass(frozen=True)
class Run:
    """A training run: everything that decides its outcome but the packages.

    Attributes:
        world: Name of the embedded world.
        arm: Name of what the other fields say, which is the same for all seeds.
        seed: Random seed, also of the parameters that are frozen at random.
        learning_rate: Learning rate.
        prompts_per_step: Prompts per step.
        target_accuracy: Accuracy at which the run stops.
        limit: Rollouts at which it is given up.
        evaluation_problems: Problems that its accuracy is measured on.
        evaluate_every: Steps between these measurements.
        acceleration: `none`, or a preset.
        extrapolation: Settings that differ from the preset.
        frozen: Parameters that are frozen: those of low utility, or as many at random, or of high utility.
        start: `base`, or `sft`, the base after a pass over answers that the teacher wrote.
        teacher: `teacher`, or `weak`, between the base and the teacher.
        tokens: Number of tokens after which training cuts completions off; evaluation does not.
    """

    world: str
    arm: str
    seed: int
    learning_rate: float
    prompts_per_step: int
    target_accuracy: float
    limit: int
    evaluation_problems: int
    evaluate_every: int = 2
    acceleration: str = "none"
    extrapolation: dict[str, Any] | None = None
    frozen: Frozen | None = None
    start: str = "base"
    teacher: str = "teacher"
    tokens: int | None = None

    @property
    def name(self) -> str:
        return f"{self.world}/{self.arm}-lr{self.learning_rate:g}-b{self.prompts_per_step}-s{self.seed}"

    @property
    def expected_cost(self) -> float:
        """Rollouts, of which a run is taken to need a third of its limit."""
        return self.limit / 3


def model_name(world: str, part: str) -> str:
    """Name a model of a world."""
    return f"world:{part}" if world == DEFAULT_WORLD else f"world:{world}/{part}"


def prepare(world: str, cell: tuple[float, int], made: Path) -> None:
    """Make the early analysis, the weaker teacher and the SFT start of a world, unless they are there."""
    if not (made / "analysis" / "updates.parquet").exists():
        shutil.rmtree(made / "early", ignore_errors=True)
        arguments, config = world_run_arguments(
            made / "early",
            world=world,
            acceleration="none",
            learning_rate=cell[0],
            seed=TUNING_SEED,
            prompts_per_step=cell[1],
            max_steps=EARLY_STEPS,
            save_steps=EARLY_STEPS,
        )
        arguments.target_accuracy = None
        with quiet_libraries():
            train(arguments, config)
        analysis = made / "analysis"
        write_tables(measure_runs(model_name(world, "base"), {"early": made / "early"}, analysis), analysis)
    for name, make in (("weak", interpolated), ("sft", fine_tuned)):
        if not (made / name).exists():
            model, tokenizer = make(world), load_tokenizer(model_name(world, "base"))
            problems = make_dataset("validation", PROBLEMS, config=task_config(world))
            accuracy = measure_accuracy(model, tokenizer, problems)["accuracy"]
            print(f"{world}: the model `{name}` has an accuracy of {accuracy:.3f}.", flush=True)
            with written_whole(made / name) as partial:
                model.save_pretrained(partial)
                tokenizer.save_pretrained(partial)
                write_json(partial / "accuracy.json", {"accuracy": accuracy, "problems": PROBLEMS})


def interpolated(world: str) -> PreTrainedModel:
    """Make a weaker teacher, at `WEAK_SHARE` of the way from the base to the teacher in the space of weights.

    An earlier checkpoint of the teacher's own training would be the natural one, but no world keeps any, and for
    `sibling` an early one is another base. This needs no training and is the same for everyone.
    """
    model, teacher = (load_model(model_name(world, part)) for part in ("base", "teacher"))
    with torch.no_grad():
        for weight, other in zip(model.parameters(), teacher.parameters(), strict=True):
            weight.lerp_(other, WEAK_SHARE)
    return model


def fine_tuned(world: str) -> PreTrainedModel:
    """Fine-tune the base on answers that the teacher wrote: one pass over `SFT_EXAMPLES`, in TRL's SFTTrainer."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    teacher, tokenizer = load_model(model_name(world, "teacher")), load_tokenizer(model_name(world, "base"))
    prompts = make_dataset("train", SFT_EXAMPLES, TUNING_SEED, task_config(world))["prompt"][:]
    inputs = tokenizer(prompts, padding=True, padding_side="left", return_tensors="pt", return_token_type_ids=False)
    torch.manual_seed(TUNING_SEED)
    length = task_config(world).max_completion_length
    tokens = teacher.generate(**inputs, do_sample=True, max_new_tokens=length)[:, inputs["input_ids"].shape[1] :]
    answers = tokenizer.batch_decode(tokens, skip_special_tokens=True)
    rows = [{"prompt": prompt, "completion": answer} for prompt, answer in zip(prompts, answers, strict=True)]
    config = SFTConfig(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=SFT_BATCH,
        learning_rate=SFT_RATE,
        lr_scheduler_type="constant",
        num_train_epochs=1,
        seed=TUNING_SEED,
        bf16=False,
        gradient_checkpointing=False,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
    )
    model = load_model(model_name(world, "base"))
    trainer = SFTTrainer(model, args=config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)
    trainer.train()
    return model


def frozen_names(kind: Frozen, analysis: Path, seed: int) -> list[str]:
    """Choose parameters to freeze with about as many elements as those of low utility: at random, or the most useful.

    Parameters are taken in turn, but for those with which the elements would be more.
    """
    moves = early_moves(analysis)
    found = utilities(moves)
    budget = sum(moves[name][1] for name, utility in found.items() if utility < LOW_UTILITY)
    order = sorted(found, key=lambda name: -found[name])
    if kind == "random":
        random.Random(seed).shuffle(order)
    chosen = []
    for name in order:
        if moves[name][1] <= budget:
            chosen.append(name)
            budget -= moves[name][1]
    return chosen


def do_run(run: Run, directory: Path) -> Record:
    """Train, in a worker process; returns the record. The folder `made` of the world is beside those of the runs."""
    started, clock = time.perf_counter(), CPUClock()
    made = directory.parent / "made"
    shutil.rmtree(directory, ignore_errors=True)
    arguments, config = arguments_to_target(run, directory, world=run.world, acceleration=run.acceleration)
    arguments.extrapolation = run.extrapolation
    config.per_device_eval_batch_size = 512  # as few prompts per step would make evaluation dearer than training
    if run.start != "base":
        arguments.model_name_or_path = str(made / run.start)
    if run.teacher != "teacher":
        config.teacher_model_name_or_path = str(made / run.teacher)
    if run.frozen == "low":
        arguments.freeze_like = str(made / "analysis")
    elif run.frozen:
        arguments.freeze = [f"^{re.escape(name)}$" for name in frozen_names(run.frozen, made / "analysis", run.seed)]
    config.eval_strategy, config.eval_steps = IntervalStrategy.STEPS, run.evaluate_every
    whole, config.max_completion_length = config.max_completion_length, run.tokens or config.max_completion_length

    def callbacks(trainer: OPDTrainer, metrics: MetricsCallback) -> list[TrainerCallback]:
        trainer.remove_callback(PrinterCallback)
        evaluate_whole_answers(trainer, whole)
        clock.watch(trainer)
        return [StopAtRollouts(metrics, run.limit)]

    with quiet_libraries():
        rows = train(arguments, config, callbacks)
    finished = read_json(directory / FINISHED)
    shutil.rmtree(directory)
    gc.collect()
    result = costs_to_target(rows, run.target_accuracy, clock)
    return {
        "run": asdict(run),
        **result,
        "cpu_seconds_per_step": clock.seconds / rows[-1]["step"],
        "frozen": finished.get("frozen"),
        "made": {
            name: read_json(made / name / "accuracy.json")["accuracy"]
            for name in (run.start, run.teacher)
            if (made / name).exists()
        },
        **course(rows, clock, started),
        "versions": versions(),
    }


def evaluate_whole_answers(trainer: OPDTrainer, length: int) -> None:
    """Let evaluation, and nothing else, sample up to so many tokens."""
    evaluate, generation = trainer.evaluate, trainer.generation_config

    @contextmanager
    def long() -> Iterator[None]:
        short, generation.max_new_tokens = generation.max_new_tokens, length
        try:
            yield
        finally:
            generation.max_new_tokens = short

    def evaluate_long(*args: Any, **kwargs: Any) -> Any:
        with long():
            return evaluate(*args, **kwargs)

    trainer.evaluate = evaluate_long
