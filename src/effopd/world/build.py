"""Building a world: pretrain a base, train a teacher from it, measure both, write the card.

Every stage is written under a temporary name and then renamed, together with a record of how it was made. A stage
is therefore either there, finished, or not there; a build that was interrupted goes on with the first stage missing.
"""

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from effopd.errors import ConfigurationError
from effopd.world.evaluate import measure_accuracy
from effopd.world.model import ModelSize
from effopd.world.pretrain import PretrainingConfig, pretrain
from effopd.world.task import TaskConfig, make_dataset
from effopd.world.teacher import TeacherConfig, train_teacher
from effopd.world.tokenizer import make_tokenizer

RECORD = "training_record.json"
Record = dict[str, Any]


def build_world(
    out: Path,
    *,
    seed: int = 0,
    config: TaskConfig | None = None,
    model_size: ModelSize | None = None,
    pretraining: PretrainingConfig | None = None,
    teacher: TeacherConfig | None = None,
    teacher_checkpoints: bool = False,
    num_evaluation_examples: int = 4000,
    use_cpu: bool = False,
) -> Record:
    """Build a base and a teacher, or finish or reuse a build that `out` already holds.

    Args:
        out: Directory to write `base/`, `teacher/` (models with tokenizer, for `from_pretrained`) and `card.json`
            to. With `teacher_checkpoints`, also `teacher_checkpoints/checkpoint-N/`.
        seed: Seed of everything that is drawn. On one machine type and thread count the same seed gives the same
            world.
        config: The task.
        model_size: The model's sizes.
        pretraining: How the base is trained.
        teacher: How the teacher is trained.
        teacher_checkpoints: Keep a checkpoint every `teacher.save_steps` steps of the teacher's training.
        num_evaluation_examples: Problems of the evaluation split that each model is measured on.
        use_cpu: Stay on the CPU even where there is a GPU.

    Returns:
        The card, which is also what `card.json` holds: `command` (the seed is its only option; `settings` holds
        whatever else was not the default), `num_parameters`, `settings`, and for `base` and `teacher` each the
        `versions` it was made with, the `seconds` it took, its `sampled_accuracy` (see `measure_accuracy`) and its
        `loss_curve` (nats per completion token) or `reward_curve` (mean reward), as [[step, value], ...].

    Raises:
        ConfigurationError: `out` holds a world, or a part of one, that was built with other settings.
    """
    plan = _Plan(
        seed=seed,
        task=config or TaskConfig(),
        model_size=model_size or ModelSize(),
        pretraining=pretraining or PretrainingConfig(),
        num_evaluation_examples=num_evaluation_examples,
        teacher=teacher or TeacherConfig(),
        teacher_checkpoints=teacher_checkpoints,
    )
    device = torch.device("cpu" if use_cpu or not torch.cuda.is_available() else "cuda")
    evaluation = make_dataset("evaluation", num_evaluation_examples, seed, plan.task)
    out.mkdir(parents=True, exist_ok=True)
    base_record = _finish_stage(
        out / "base", plan.base_settings(), lambda folder: _make_base(plan, folder, evaluation, device)
    )
    teacher_record = _finish_stage(
        out / "teacher", asdict(plan), lambda folder: _make_teacher(plan, folder, out, evaluation, device)
    )
    return _write_card(out / "card.json", base_record, teacher_record)


@dataclass(frozen=True)
class _Plan:
    """Everything that decides what a build makes."""

    seed: int
    task: TaskConfig
    model_size: ModelSize
    pretraining: PretrainingConfig
    num_evaluation_examples: int
    teacher: TeacherConfig
    teacher_checkpoints: bool

    def base_settings(self) -> Record:
        """What decides the base: everything but the teacher's training."""
        return {name: value for name, value in asdict(self).items() if not name.startswith("teacher")}


def _make_base(plan: _Plan, folder: Path, evaluation: Dataset, device: torch.device) -> Record:
    tokenizer = make_tokenizer()
    model, losses = pretrain(tokenizer, plan.model_size, plan.task, plan.pretraining, plan.seed, device)
    _save_model(model, tokenizer, folder)
    return _measure(model, tokenizer, evaluation, plan.seed) | {"loss_curve": _thin(losses)}


def _make_teacher(plan: _Plan, folder: Path, out: Path, evaluation: Dataset, device: torch.device) -> Record:
    tokenizer = AutoTokenizer.from_pretrained(out / "base")
    model = AutoModelForCausalLM.from_pretrained(out / "base", dtype=torch.float32)
    num_prompts = plan.teacher.num_steps * plan.teacher.prompts_per_step
    run_dir = folder / "run"
    rewards = train_teacher(
        model,
        tokenizer,
        make_dataset("train", num_prompts, plan.seed, plan.task),
        plan.teacher,
        plan.seed,
        plan.task.max_completion_length,
        run_dir,
        use_cpu=device.type == "cpu",
        save_checkpoints=plan.teacher_checkpoints,
    )
    if plan.teacher_checkpoints:
        run_dir.rename(_replaceable(out / "teacher_checkpoints"))
    else:
        shutil.rmtree(run_dir, ignore_errors=True)
    _save_model(model, tokenizer, folder)
    return _measure(model, tokenizer, evaluation, plan.seed) | {"reward_curve": _thin(rewards)}


def _finish_stage(folder: Path, settings: Record, make: Callable[[Path], Record]) -> Record:
    """Return a stage's record: read it where the stage is finished, else run the stage and rename its folder."""
    if folder.exists():
        record_file = folder / RECORD
        found: Record = json.loads(record_file.read_text()) if record_file.exists() else {}
        _check_same_settings(folder, found.get("settings", {}), settings)
        Console().print(f"{folder.name}: already built, reused", highlight=False)
        return found
    partial = _replaceable(folder.with_name(f".{folder.name}.partial"))
    partial.mkdir()
    start = time.perf_counter()
    results = make(partial)
    record = {
        "settings": settings,
        "versions": {name: version(name) for name in ("effopd", "torch", "transformers", "trl")},
        "seconds": round(time.perf_counter() - start, 1),
        **results,
    }
    (partial / RECORD).write_text(json.dumps(record, indent=2) + "\n")
    partial.rename(folder)
    return record


def _check_same_settings(folder: Path, found: Record, expected: Record) -> None:
    if found == expected:
        return
    differing = sorted(key for key in found.keys() | expected.keys() if found.get(key) != expected.get(key))
    details = "; ".join(f"{key}: got {expected.get(key)}, found {found.get(key)}" for key in differing)
    raise ConfigurationError(
        f"{folder} was not built with these settings ({details}); use another directory, or delete this one"
    )


def _save_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _measure(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, dataset: Dataset, seed: int) -> Record:
    return {
        "num_parameters": model.num_parameters(),
        "sampled_accuracy": measure_accuracy(model, tokenizer, dataset, seed),
    }


def _write_card(path: Path, base: Record, teacher: Record) -> Record:
    settings = teacher["settings"]
    shared = ("settings", "num_parameters")
    card = {
        "command": f"effopd world build --out DIR --seed {settings['seed']}",
        "num_parameters": teacher["num_parameters"],
        "settings": settings,
        "base": {key: value for key, value in base.items() if key not in shared},
        "teacher": {key: value for key, value in teacher.items() if key not in shared},
    }
    temporary = path.with_name(f".{path.name}.partial")
    temporary.write_text(json.dumps(card, indent=2) + "\n")
    temporary.replace(path)
    return card


def _replaceable(folder: Path) -> Path:
    """The folder's path, after whatever an interrupted build left there is gone."""
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def _thin(curve: list[float], num_points: int = 50) -> list[list[float]]:
    """At most `num_points` of a curve, evenly spaced and ending with the last: [[step, value], ...], steps from 1."""
    stride = max(1, -(-len(curve) // num_points))
    return [[step, round(curve[step - 1], 5)] for step in range(len(curve), 0, -stride)][::-1]
