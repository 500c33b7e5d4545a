"""The commands that are killed, each small enough to be run some hundred times."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from faults.kill_points import KillPoints

STEP = "call CallbackHandler.on_step_begin"
"""Name of the point at which each step of training begins."""


@dataclass(frozen=True)
class Workload:
    """A command.

    Attributes:
        prepare: Function that writes into a directory what the command reads.
        run: Function that runs the command, given that directory and its output directory.
        watch: Function that makes calls inside the command points, beside its changes on disk.
    """

    prepare: Callable[[Path], None]
    run: Callable[[Path, Path], Any]
    watch: Callable[[KillPoints], None] = lambda points: None


def _command(*argv: object) -> None:
    from effopd import cli

    status = cli.main([str(part) for part in argv])
    assert status == 0, f"exit status {status}"


def training(**changes: Any) -> Workload:
    """`effopd train` for four steps of a random model, with two checkpoints and a measurement of the update."""

    def prepare(inputs: Path) -> None:
        from tiny import tiny_model

        from effopd.world.tokenizer import make_tokenizer

        for name, seed in (("student", 0), ("teacher", 1)):
            tiny_model(seed).save_pretrained(inputs / name)
            make_tokenizer().save_pretrained(inputs / name)
        settings: dict[str, Any] = {
            "model_name_or_path": str(inputs / "student"),
            "teacher_model_name_or_path": str(inputs / "teacher"),
            "dataset_name": "world:train",
            "reward": "tiny:contains_answer",
            "num_train_examples": 64,
            "per_device_train_batch_size": 8,
            "max_steps": 4,
            "save_steps": 2,
            "learning_rate": 1e-3,
            "lr_scheduler_type": "constant",
            "max_completion_length": 6,
            "bf16": False,
            "gradient_checkpointing": False,
            "use_cpu": True,
            "report_to": "none",
            "disable_tqdm": True,
            "logging_steps": 1,
            "monitor_every": 1,
            "extrapolation": {"num_prompts": 4},
        }
        (inputs / "run.yaml").write_text(yaml.safe_dump(settings | changes))

    def run(inputs: Path, out: Path) -> None:
        from effopd.training import build, monitor

        # By default, when the monitor measures next depends on the seconds that it took.
        build.UpdateMonitorCallback = partial(monitor.UpdateMonitorCallback, max_share=None)
        _command("train", inputs / "run.yaml", "--output_dir", out)

    return Workload(prepare, run, _watch_training)


def _watch_training(points: KillPoints) -> None:
    from accelerate import Accelerator
    from accelerate.optimizer import AcceleratedOptimizer
    from transformers.trainer_callback import CallbackHandler

    from effopd import trl_hooks
    from effopd.extrapolation import callback
    from effopd.extrapolation.next_rollouts import NextRolloutsValidator
    from effopd.extrapolation.snapshot import Snapshot

    for name in ("displacement", "begin", "write_candidate", "restore", "commit", "save"):
        points.before(Snapshot, name, f"Snapshot.{name}")
    points.before(callback, "validate")
    points.before(NextRolloutsValidator, "score_live", "NextRolloutsValidator.score_live")
    points.before(trl_hooks, "publish_weights")
    points.before(CallbackHandler, "on_step_begin", STEP.removeprefix("call "))
    points.before(AcceleratedOptimizer, "step", "AcceleratedOptimizer.step")
    points.before(Accelerator, "wait_for_everyone", "Accelerator.wait_for_everyone")


def _write_analysis(inputs: Path) -> None:
    from updates.runs_on_disk import write_run

    write_run(inputs, 2)


def _analyze(inputs: Path, out: Path) -> None:
    _command("analyze", "--base", inputs / "base", "--run", f"run={inputs / 'run'}", "--out", out, "--workers", 1)


def _write_sweep(inputs: Path) -> None:
    from sweeps.short_runs import write_checkpoint

    for step in (1, 10):
        write_checkpoint(inputs / "opd" / f"checkpoint-{step}", step / 10, step)
    half = {"preset": "intervention", "name": "halves", "kind": "scale", "vary": "alpha", "values": [0, 0.5, 1]}
    spec = {
        "base": "world:base",
        "root": str(inputs),
        "runs": {"OPD": "opd"},
        "tasks": ["world"],
        "limit": 4,
        "completions": True,
        "sweeps": [half],
    }
    (inputs / "sweep.yaml").write_text(yaml.safe_dump(spec))


def _sweep(inputs: Path, out: Path) -> None:
    _command("sweep", inputs / "sweep.yaml", "--out", out, "--workers", 1)


def _evaluate(inputs: Path, out: Path) -> None:
    arguments = ("--task", "world", "--limit", 8, "--samples", 2, "--batch-size", 4, "--teacher", "world:teacher")
    _command("evaluate", "world:base", *arguments, "--out", out)


def _nothing(inputs: Path) -> None:
    pass


def _study(inputs: Path, out: Path) -> None:
    from effopd.study import make_plan, run, study
    from effopd.study.claims import CLAIMS

    timeless = [claim for claim in CLAIMS if "seconds" not in claim.name]
    run.judge = partial(run.judge, claims=timeless)  # in this process, which does nothing else
    plan = make_plan("quick")
    rate = {"learning_rate": 1e-3, "prompts_per_step": 8}
    settings = {
        **plan.settings,
        "evaluation_problems": 8,
        "checkpoints": 2,
        "worlds": {"style": {"steps": 4, "rl_steps": 2, "careful": rate, "best": rate}},
        "sweep": {
            "limit": 4,
            "batch_size": 4,
            "max_checkpoints": 1,
            "sweeps": [{"preset": "update_norm", "values": [0, 1]}],
        },
    }
    methods = {role: plan.methods[role] for role in ("opd", "effopd", "rl")}
    study(replace(plan, seeds=(200,), settings=settings, methods=methods), out, workers=1)


WORKLOADS = {
    "train, paper": training(),
    "train, line_search": training(acceleration="line_search", extrapolation={}),
    "train, one checkpoint kept": training(save_total_limit=1, save_steps=1, max_steps=3, monitor_every=None),
    "train, stopped at a target": training(
        save_total_limit=1,
        save_steps=2,
        eval_strategy="steps",
        eval_steps=2,
        evaluation_dataset_name="world:evaluation",
        num_evaluation_examples=4,
        target_accuracy=0.01,
        monitor_every=None,
    ),
    "analyze": Workload(_write_analysis, _analyze),
    "sweep": Workload(_write_sweep, _sweep),
    "evaluate": Workload(_nothing, _evaluate),
    "study": Workload(_nothing, _study),
}
