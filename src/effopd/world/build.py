"""Building a world: pretrain a base, train a teacher from it, measure both, and write the card.

Each of the two stages is written under a temporary name, together with a record of how it was made, and then renamed. A
stage that is there is therefore finished, and an interrupted build goes on with the first stage that is missing.
"""

import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
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
from effopd.world.assets import cache_dir, shipped_dir
from effopd.world.evaluate import measure_accuracy
from effopd.world.measure import CARD, MEASURES, measure_world
from effopd.world.model import ModelSize
from effopd.world.pretrain import PretrainingConfig, pretrain
from effopd.world.sibling import SiblingConfig, train_sibling
from effopd.world.task import TaskConfig, make_dataset
from effopd.world.teacher import TeacherConfig, train_teacher
from effopd.world.tokenizer import make_tokenizer
from effopd.world.worlds import world_settings

RECORD = "training_record.json"
Record = dict[str, Any]


def build_world(
    out: Path,
    *,
    seed: int = 0,
    config: TaskConfig | None = None,
    model_size: ModelSize | None = None,
    pretraining: PretrainingConfig | None = None,
    teacher: TeacherConfig | SiblingConfig | None = None,
    teacher_checkpoints: bool = False,
    num_evaluation_examples: int = 4000,
    use_cpu: bool = False,
    name: str | None = None,
) -> Record:
    """Build a base and a teacher, or finish or reuse a build that `out` already holds.

    Args:
        out: Directory for `base/` and `teacher/` (models with their tokenizer, for `from_pretrained`), `card.json`, and
            `teacher_checkpoints/checkpoint-N/` if checkpoints are kept.
        seed: Random seed of everything that is drawn. The same seed gives the same world on machines of one type with
            the same number of threads.
        config: Settings of the task; the default task if None.
        model_size: Sizes of the base, and of a teacher that is made from it; the default sizes if None.
        pretraining: Settings of the base's training; the default ones if None.
        teacher: Settings of the teacher's training by GRPO from the base or a twin of it, or of a sibling that becomes
            the teacher; the default ones of GRPO if None.
        teacher_checkpoints: Whether a checkpoint is kept every `teacher.save_steps` steps of the teacher's training by
            GRPO.
        num_evaluation_examples: Number of problems of the evaluation split that each model is measured on.
        use_cpu: Whether the CPU is used even if there is a GPU.
        name: Name of the world in `WORLDS`, if it is one of these, for the card's `command`.

    Returns:
        The card, which is also written to `card.json`. It holds the `command` that builds this world (with its name, or
        with the seed as its only option), all `settings`, and the `num_parameters` of the base. Under `base` and
        `teacher` it holds the `versions` of the packages, the `seconds` that the stage took, the `sampled_accuracy`
        (see `measure_accuracy`), and the `loss_curve` (in nats per completion token) or the `reward_curve` (mean
        reward), as [[step, value], ...]; of a teacher of another size, `num_parameters` too. What `measure_world` has
        measured on the same models is kept.

    Raises:
        ConfigurationError: `out` holds a world, or one of its stages, that was built with other settings; or
            checkpoints are asked for of a teacher that is a sibling.
        DataError: Another build is writing to `out`.
    """
    if teacher_checkpoints and isinstance(teacher, SiblingConfig):
        raise ConfigurationError("teacher_checkpoints: a sibling has none; leave it out, or pass a TeacherConfig.")
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
        return _write_card(out / CARD, base_record, teacher_record, name)


def build_named_world(name: str, out: Path | None = None) -> Record:
    """Build a world of `WORLDS` and measure it, or finish or reuse what is there.

    Args:
        name: Name of the world.
        out: Directory to build into; None takes the one in which `base_dir` and the like look for it.

    Returns:
        The card (see `build_world`), with what `measure_world` adds.

    Raises:
        ConfigurationError: There is no such world, it comes with the package and `out` is None, or `out` holds another.
        DataError: Another build is writing to `out`.
    """
    settings = world_settings(name)
    if out is None and (shipped := shipped_dir(name) / "card.json").exists():
        raise ConfigurationError(
            f"The world {name!r} comes with the package, in {shipped.parent}, where world:{name}/base is. To build it "
            "again elsewhere, pass --out DIR."
        )
    out = out or cache_dir(name)
    card = build_world(
        out,
        seed=settings.seed,
        config=settings.task,
        model_size=settings.model_size,
        pretraining=settings.pretraining,
        teacher=settings.teacher,
        name=name,
    )
    if MEASURES not in card:
        card = measure_world(out)
    return card


@dataclass(frozen=True)
class _BuildSettings:
    """All settings that decide what a build makes."""

    seed: int
    task: TaskConfig
    model_size: ModelSize
    pretraining: PretrainingConfig
    num_evaluation_examples: int
    teacher: TeacherConfig | SiblingConfig
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
    if isinstance(settings.teacher, SiblingConfig):
        tokenizer = make_tokenizer()
        sibling, losses = train_sibling(tokenizer, settings.task, settings.teacher, settings.seed, device)
        _save_model(sibling, tokenizer, folder)
        return _measure(sibling, tokenizer, evaluation, settings.seed) | {"loss_curve": _thin(losses)}
    return _make_grpo_teacher(settings, settings.teacher, folder, out, evaluation, device)


def _make_grpo_teacher(
    settings: _BuildSettings,
    config: TeacherConfig,
    folder: Path,
    out: Path,
    evaluation: Dataset,
    device: torch.device,
) -> Record:
    tokenizer = AutoTokenizer.from_pretrained(out / "base")
    if config.twin_reliability is None:
        model = AutoModelForCausalLM.from_pretrained(out / "base", dtype=torch.float32)
    else:
        task = replace(settings.task, fact_reliability=config.twin_reliability)
        model, _ = pretrain(tokenizer, settings.model_size, task, settings.pretraining, settings.seed, device)
    run_dir = folder / "run"
    rewards = train_teacher(
        model,
        tokenizer,
        make_dataset("train", config.num_steps * config.prompts_per_step, settings.seed, settings.task),
        config,
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


def _write_card(path: Path, base: Record, teacher: Record, name: str | None) -> Record:
    settings = teacher["settings"]
    of_base = ("settings", "num_parameters")
    of_teacher = of_base if teacher["num_parameters"] == base["num_parameters"] else ("settings",)
    card = {
        "command": "effopd world build " + (f"--name {name}" if name else f"--out DIR --seed {settings['seed']}"),
        "num_parameters": base["num_parameters"],
        "settings": settings,
        "base": {key: value for key, value in base.items() if key not in of_base},
        "teacher": {key: value for key, value in teacher.items() if key not in of_teacher},
    }
    if path.exists() and (measures := (before := read_json(path)).pop(MEASURES, None)) and before == card:
        card[MEASURES] = measures
    write_json(path, card)
    return card


def _thin(curve: list[float], num_points: int = 50) -> list[list[float]]:
    """Keep at most `num_points` points of a curve, evenly spaced, the last one among them.

    Returns:
        [[step, value], ...], with steps counted from 1.
    """
    stride = max(1, -(-len(curve) // num_points))
    return [[step, round(curve[step - 1], 5)] for step in range(len(curve), 0, -stride)][::-1]
