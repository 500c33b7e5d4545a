"""One run of `grid.py`: training to the target and beyond it, with what is measured at the target and at the end."""

import copy
import gc
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from grid_plan import Run
from run_records import Record
from training_runs import CPUClock, course, evaluations
from transformers import (
    PreTrainedModel,
    PrinterCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.training_args import OptimizerNames
from typing_extensions import override

import effopd.world
from effopd.errors import DivergedError
from effopd.evaluation.divergence import reverse_kl
from effopd.experiments.arguments import world_run_arguments
from effopd.experiments.cost_to_target import to_target
from effopd.extrapolation.validation import RewardFunction
from effopd.files import read_json_lines
from effopd.sampling import evaluation_mode, sample_tokens, seeded
from effopd.training.config import OPDConfig, RunArguments
from effopd.training.data import load_prompts
from effopd.training.metrics import METRICS, MetricsCallback
from effopd.training.quiet import quiet_libraries
from effopd.training.rewards import resolve_rewards
from effopd.training.run import train, versions
from effopd.training.stopping import EvaluateNearTarget
from effopd.training.trainer import OPDTrainer

FINAL_SEED = 1  # of the measurement at the end; that of accuracy during the run has the run's own seed
BATCH = 512


def do_run(run: Run, directory: Path) -> Record:
    """Train, in a worker process; returns the record."""
    started, clock = time.perf_counter(), CPUClock()
    shutil.rmtree(directory, ignore_errors=True)
    arguments, config = settings(run, directory)
    beyond: list[BeyondTarget] = []

    def callbacks(trainer: OPDTrainer, metrics: MetricsCallback) -> list[TrainerCallback]:
        trainer.remove_callback(PrinterCallback)
        clock.watch(trainer)
        assert arguments.reward is not None
        rewards = resolve_rewards(arguments.reward)
        beyond.append(BeyondTarget(trainer, metrics, clock, run, arguments, rewards))
        return [EvaluateNearTarget(trainer, run.target_accuracy, rewards), *beyond]

    diverged = False
    try:
        with quiet_libraries():
            rows = train(arguments, config, callbacks)
    except DivergedError:  # an outcome like others: the run does not arrive, or does not last
        rows, diverged = beyond[0].rows_so_far(directory), True
    shutil.rmtree(directory)
    gc.collect()
    return {
        "run": run.recorded(),
        "diverged": diverged,
        **beyond[0].outcome(rows),
        **course(rows, clock, started),
        "versions": versions(),
    }


def settings(run: Run, directory: Path) -> tuple[RunArguments, OPDConfig]:
    """The settings of a run. It does not stop at the target, but where `BeyondTarget` says."""
    most = run.limit + run.after_target["at_most"]
    arguments, config = world_run_arguments(
        directory,
        acceleration="none",
        learning_rate=run.learning_rate,
        seed=run.seed,
        target_accuracy=run.target_accuracy,
        prompts_per_step=run.prompts_per_step,
        evaluation_problems=run.evaluation_problems,
        # More than enough, also where each pass over a step's rollouts counts as a step.
        max_steps=(1 + most // run.prompts_per_step) * (run.extrapolation or {}).get("passes", 1),
        save_steps=None,
        world=run.world,
    )
    arguments.target_accuracy = None
    arguments.acceleration, arguments.extrapolation = run.acceleration, run.extrapolation
    config.optim = OptimizerNames(run.optim)
    config.per_device_eval_batch_size = BATCH  # as few prompts per step would make evaluation dearer than training
    return arguments, config


class BeyondTarget(TrainerCallback):
    """Notes what a run is like at its target, lets it go on for a while, stops it, and measures it at its end.

    It comes after `EvaluateNearTarget`, whose evaluations after the target it makes sparser.
    """

    def __init__(
        self,
        trainer: OPDTrainer,
        metrics: MetricsCallback,
        clock: CPUClock,
        run: Run,
        arguments: RunArguments,
        rewards: Sequence[RewardFunction],
    ) -> None:
        self.trainer, self.metrics, self.clock, self.run = trainer, metrics, clock, run
        self.arguments, self.rewards = arguments, rewards
        self.base_second_skill: Record | None = None
        self.at_target: Record | None = None
        self.final: Record | None = None
        self._base: PreTrainedModel
        self._cpu_seconds = 0.0  # at the end of the last step, before its evaluation
        self._stop_at = run.limit
        self._evaluated_at = 0

    @override
    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        with self.clock.apart():
            self._base = copy.deepcopy(self.trainer.accelerator.unwrap_model(self.trainer.model))
            self.base_second_skill = second_skill(self.trainer, self.run.world, self._base)

    @override
    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._cpu_seconds = self.clock.now()
        rollouts = self._rollouts()
        if self.at_target:
            control.should_evaluate = rollouts - self._evaluated_at >= self.run.after_target["evaluate_every"]
        if rollouts >= self._stop_at:
            control.should_evaluate = control.should_training_stop = True

    @override
    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Note the target when it is reached; the trainer's `evaluate`, whose time is apart, calls this."""
        assert metrics is not None
        self._evaluated_at = self._rollouts()
        accuracy = metrics["eval_accuracy"]
        if self.at_target is None and accuracy >= self.run.target_accuracy:
            self.at_target = {
                "accuracy": accuracy,
                "cpu_seconds": self._cpu_seconds,
                "second_skill": second_skill(self.trainer, self.run.world, self._base),
            }
            after = self.run.after_target
            budget = min(max(after["times"] * self._evaluated_at, after["at_least"]), after["at_most"])
            self._stop_at = self._evaluated_at + budget
            control.should_training_stop = False  # where the target was reached with the last rollouts of the limit

    @override
    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        with self.clock.apart():
            self.final = final_measurement(self.trainer, self.arguments, self.rewards, self.run)

    def outcome(self, rows: Sequence[Record]) -> Record:
        """What the run cost, and what it was like at the target and afterwards."""
        target = self.run.target_accuracy
        costs = to_target(rows, target)
        costs["cpu_seconds_to_target"] = self.at_target["cpu_seconds"] if self.at_target else None
        costs["spent"]["cpu_seconds_to_target"] = self.clock.seconds
        reached = costs["rollouts_to_target"]
        afterwards = [accuracy for _, rollouts, accuracy in evaluations(rows) if reached and rollouts > reached]
        lowest = min(afterwards, default=None)
        return costs | {
            "base_second_skill": self.base_second_skill,
            "at_target": self.at_target,
            "after_target": {
                "rollouts": rows[-1]["rollouts"] - reached,
                "lowest_accuracy": lowest,
                "fell": lowest is not None and lowest < target - self.run.fall,
            }
            if reached
            else None,
            "final": self.final,
        }

    def rows_so_far(self, directory: Path) -> list[Record]:
        """Rows of a run that diverged, with that of its last step, which may not be written yet."""
        rows, last = read_json_lines(directory / METRICS), self.metrics.row
        return [*rows, *([last] if last and last["step"] > len(rows) else [])]

    def _rollouts(self) -> int:
        assert self.metrics.row is not None
        return int(self.metrics.row["rollouts"])


def second_skill(trainer: OPDTrainer, world: str, base: PreTrainedModel) -> Record | None:
    """Accuracy on the second skill's prompts and KL to the base there, in nats per token; None if there is none.

    The measurement leaves the run's random numbers as they were.
    """
    measure = getattr(effopd.world, "measure_second_skill", None)
    if measure is None:
        return None
    model = trainer.accelerator.unwrap_model(trainer.model)
    config = effopd.world.task_config(world)
    with evaluation_mode(model), seeded(0, trainer.accelerator.device):
        measured = measure(model, trainer.processing_class, base, config)
    return {
        "accuracy": measured["accuracy"],
        "num_examples": measured["num_examples"],
        "kl_to_base": measured["kl_to_base"]["nats_per_token"],
    }


def final_measurement(
    trainer: OPDTrainer, arguments: RunArguments, rewards: Sequence[RewardFunction], run: Run
) -> Record:
    """Accuracy on problems on which the run was not followed, and the reverse KL to the teacher on its own answers."""
    assert arguments.evaluation_dataset_name is not None
    number = run.evaluation_problems + run.final_problems
    rows = load_prompts(arguments.evaluation_dataset_name, require_answer=True, limit=number)
    problems: dict[str, list[Any]] = rows.select(range(run.evaluation_problems, number)).to_dict()
    model = trainer.accelerator.unwrap_model(trainer.model)
    teacher = trainer.accelerator.unwrap_model(trainer.teacher_model)
    with evaluation_mode(model, teacher), seeded(FINAL_SEED, trainer.accelerator.device):
        prompts, completions = sample(model, trainer.processing_class, problems["prompt"], trainer.args)
        texts = trainer.processing_class.batch_decode(completions, skip_special_tokens=True)
        sums = reverse_kl(model, teacher, prompts, completions)
        columns = {name: values for name, values in problems.items() if name != "prompt"}
        scores = torch.tensor(
            [reward(prompts=problems["prompt"], completions=texts, completion_ids=completions, **columns)
             for reward in rewards]
        ).sum(0)  # fmt: skip
    return {
        "problems": run.final_problems,
        "accuracy": scores.double().mean().item(),
        "reverse_kl": sum(sums) / len(sums),
        "reverse_kl_per_token": sum(sums) / sum(map(len, completions)),
    }


def sample(
    model: Any, tokenizer: Any, texts: Sequence[str], config: OPDConfig
) -> tuple[list[list[int]], list[list[int]]]:
    """Sample an answer to each prompt in batches of a size of their own; returns prompts and answers as token ids."""
    prompts: list[list[int]] = []
    completions: list[list[int]] = []
    end = tokenizer.eos_token_id
    for start in range(0, len(texts), BATCH):
        inputs = tokenizer(list(texts[start : start + BATCH]), padding=True, padding_side="left", return_tensors="pt")
        tokens = sample_tokens(
            model,
            inputs["input_ids"],
            inputs["attention_mask"],
            max_new_tokens=config.max_completion_length,
            eos_token_ids=[end],
            pad_token_id=tokenizer.pad_token_id,
        ).tolist()
        masks = inputs["attention_mask"].bool()
        prompts += [ids[mask].tolist() for ids, mask in zip(inputs["input_ids"], masks, strict=True)]
        completions += [ids[: ids.index(end) + 1] if end in ids else ids for ids in tokens]
    return prompts, completions
