"""Building a world: pretrain a base, train a teacher from it, measure both, and write the card.

Each of the two stages is written under a temporary name, together with a record of how it was made, and then renamed. A
stage that is there is therefore finished, and an interrupted build goes on with the first stage that is missing.
"""

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
from effopd.files import read_json, write_json
from effopd.run_directory import differing_settings, locked, written_whole
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
        out: Directory for `base/` and `teacher/` (models with their tokenizer, for `from_pretrained`), `card.json`, and
            `teacher_checkpoints/checkpoint-N/` if checkpoints are kept.
        seed: Random seed of everything that is drawn. The same seed gives the same world on machines of one type with
            the same number of threads.
        config: Settings of the task; the default task if None.
        model_size: Sizes of both models; the default sizes if None.
        pretraining: Settings of the base's training; the default ones if None.
        teacher: Settings of the teacher's training; the default ones if None.
        teacher_checkpoints: Whether a checkpoint is kept every `teacher.save_steps` steps of the teacher's training.
        num_evaluation_examples: Number of problems of the evaluation split that each model is measured on.
        use_cpu: Whether the CPU is used even if there is a GPU.

    Returns:
        The card, which is also written to `card.json`. It holds the `command` that builds this world (with the seed as
        its only option), all `settings` and `num_parameters`. Under `base` and `teacher` it holds the `versions` of the
        packages, the `seconds` that the stage took, the `sampled_accuracy` (see `measure_accuracy`), and the
        `loss_curve` (in nats per completion token) or the `reward_curve` (mean reward), as [[step, value], ...].

    Raises:
        ConfigurationError: `out` holds a world, or one of its stages, that was built with other settings.
        DataError: Another build is writing to `out`.
    """
    settings = _BuildSettings(
        seed=seed,
        task=config or TaskConfig(),
        model_size=model_size or ModelSize(),
        pretraining=pretraining or PretrainingConfig(),
        num_evaluation_examples=num_evaluation_examples,
        teacher=teacher or TeacherConfig(),
        teacher_checkpoints=teacher_checkpoints,
    )
    device = torch.device("cpu" if use_cpu or not torch.cuda.is_available() else "cuda")
    evaluation = make_dataset("evaluation", num_evaluation_examples, seed, settings.task)
    out.mkdir(parents=True, exist_ok=True)
    with locked(out):
        base_record = _finish_stage(
            out / "base", settings.of_base(), lambda folder: _make_base(settings, folder, evaluation, device)
        )
        teacher_record = _finish_stage(
            out / "teacher", asdict(settings), lambda folder: _make_teacher(settings, folder, out, evaluation, device)
        )
        return _write_card(out / "card.json", base_record, teacher_record)


@dataclass(frozen=True)
class _BuildSettings:
    """All settings that decide what a build makes."""

    seed: int
    task: TaskConfig
    model_size: ModelSize
    pretraining: PretrainingConfig
    num_evaluation_examples: int
    teacher: TeacherConfig
    teacher_checkpoints: bool

    def of_base(self) -> Record:
        """Return the settings that decide the base: all but those of the teacher's training."""
        return {name: value for name, value in asdict(self).items() if not name.startswith("teacher")}


def _make_base(settings: _BuildSettings, folder: Path, evaluation: Dataset, device: torch.device) -> Record:
    tokenizer = make_tokenizer()
    model, losses = pretrain(tokenizer, settings.model_size, settings.task, settings.pretraining, settings.seed, device)
    _save_model(model, tokenizer, folder)
    return _measure(model, tokenizer, evaluation, settings.seed) | {"loss_curve": _thin(losses)}


def _make_teacher(
    settings: _BuildSettings, folder: Path, out: Path, evaluation: Dataset, device: torch.device
) -> Record:
    tokenizer = AutoTokenizer.from_pretrained(out / "base")
    model = AutoModelForCausalLM.from_pretrained(out / "base", dtype=torch.float32)
    num_prompts = settings.teacher.num_steps * settings.teacher.prompts_per_step
    run_dir = folder / "run"
    rewards = train_teacher(
        model,
        tokenizer,
        make_dataset("train", num_prompts, settings.seed, settings.task),
        settings.teacher,
        settings.seed,
        settings.task.max_completion_length,
        run_dir,
        use_cpu=device.type == "cpu",
        save_checkpoints=settings.teacher_checkpoints,
    )
    if settings.teacher_checkpoints:
        shutil.rmtree(out / "teacher_checkpoints", ignore_errors=True)  # of a build that was interrupted later
        run_dir.rename(out / "teacher_checkpoints")
    else:
        shutil.rmtree(run_dir, ignore_errors=True)
    _save_model(model, tokenizer, folder)
    return _measure(model, tokenizer, evaluation, settings.seed) | {"reward_curve": _thin(rewards)}


def _finish_stage(folder: Path, settings: Record, make: Callable[[Path], Record]) -> Record:
    """Return a stage's record: read it if the stage is finished, else run the stage and rename its folder."""
    if folder.exists():
        found = read_json(folder / RECORD) if (folder / RECORD).exists() else {}
        if differences := differing_settings(found.get("settings", {}), settings):
            raise ConfigurationError(
                f"{folder} was not built with these settings: {'; '.join(differences)}. Use another directory, or"
                " delete this one."
            )
        Console().print(f"{folder.name}: already built, reused", highlight=False)
        return found
    with written_whole(folder) as partial:
        start = time.perf_counter()
        results = make(partial)
        record = {
            "settings": settings,
            "versions": {name: version(name) for name in ("effopd", "torch", "transformers", "trl")},
            "seconds": round(time.perf_counter() - start, 1),
            **results,
        }
        write_json(partial / RECORD, record)
    return record


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
    write_json(path, card)
    return card


def _thin(curve: list[float], num_points: int = 50) -> list[list[float]]:
    """Keep at most `num_points` points of a curve, evenly spaced, the last one among them.

    Returns:
        [[step, value], ...], with steps counted from 1.
    """
    stride = max(1, -(-len(curve) // num_points))
    return [[step, round(curve[step - 1], 5)] for step in range(len(curve), 0, -stride)][::-1]
