"""The model card of a run: `README.md` in its directory, with its settings, its costs and its jumps.

It is made of what the run directory holds, so it can be written at any time. Of what lies on the user's own disk, it
tells names and no paths, since a card may be published.
"""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCard, ModelCardData

from effopd.errors import DataError
from effopd.extrapolation.presets import resolve_preset
from effopd.extrapolation.records import RECORDS
from effopd.files import read_json, read_json_lines, write_text
from effopd.models.find import local_path
from effopd.training.alphaopd import MODEL as ALPHAOPD_MODEL
from effopd.training.alphaopd import RECORD as ALPHAOPD
from effopd.training.metrics import METRICS

logger = logging.getLogger(__name__)

CARD, CONFIG, VERSIONS = "README.md", "config.yaml", "versions.json"
TAG = "effopd"
_MARK = "<!-- effopd writes this file anew whenever the run is continued. Remove this line, and it stays as it is. -->"
# Number of jumps that the card lists; the others it counts.
_JUMPS = 20
_REINFORCEMENT = ("grpo", "dapo", "ppo")
_SETTINGS = (
    *("method", "estimator", "exopd_lambda", "beta", "reward", "learning_rate", "lr_scheduler_type"),
    *("per_device_train_batch_size", "gradient_accumulation_steps", "num_generations"),
    *("max_completion_length", "temperature", "freeze", "target_accuracy", "seed"),
)
_COSTS = {
    "rollouts": "completions sampled, in all",
    "validation_rollouts": "of them, to validate candidates of EffOPD",
    "generated_tokens": "tokens in all completions",
    "validation_tokens": "of them, to validate",
    "teacher_tokens": "tokens that the teacher scored",
    "reference_tokens": "tokens that the reference model scored",
}
_CITATION = """```bibtex
@misc{effopd,
  title         = {Learning to Foresee: Unveiling the Unlocking Efficiency of On-Policy Distillation},
  eprint        = {2605.11739},
  archivePrefix = {arXiv},
  year          = {2026}
}
```"""


def write_card(directory: Path, tags: Iterable[str] = (), best_step: int | None = None) -> None:
    """Write the card of a run, unless its directory has a `README.md` that is somebody else's.

    Args:
        directory: Run directory; without a row of metrics there is nothing to tell yet, and nothing is written.
        tags: Tags of the model, beside effopd's own.
        best_step: Step whose model is kept; None if it is that of the last.
    """
    path, rows = directory / CARD, []
    if (directory / METRICS).exists():
        rows = read_json_lines(directory / METRICS)
    if not rows:
        return
    if path.exists() and not (path.is_file() and _MARK in path.read_text(encoding="utf-8", errors="replace")):
        logger.warning("%s is not written by effopd, so it stays as it is, and there is no model card.", path)
        return
    write_text(path, str(make_card(directory, rows, tags, best_step)))


def make_card(
    directory: Path, rows: list[dict[str, Any]], tags: Iterable[str] = (), best_step: int | None = None
) -> ModelCard:
    """Make the card of a run.

    Args:
        directory: Run directory, of which `config.yaml`, `versions.json` and `extrapolations.jsonl` are read.
        rows: Rows of its metrics, at least one.
        tags: Tags of the model, beside effopd's own.
        best_step: Step whose model is kept; None if it is that of the last.
    """
    config = yaml.safe_load((directory / CONFIG).read_text(encoding="utf-8"))
    extrapolated = read_json(directory / ALPHAOPD) if (directory / ALPHAOPD).exists() else None
    triggers = read_json_lines(directory / RECORDS) if (directory / RECORDS).exists() else []
    student, data = config["model_name_or_path"], config["dataset_name"]
    kind = "reinforcement-learning" if config["method"] in _REINFORCEMENT else "on-policy-distillation"
    metadata = ModelCardData(
        base_model=student if _is_on_hub(student) else None,
        datasets=[data] if _is_on_hub(data) else None,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=list(dict.fromkeys([TAG, kind, *tags])),
    )
    sections = {
        "Settings": [_table("setting", "value", _settings(config)), f"All others are in `{CONFIG}`."],
        "Cost": [_table("of the whole run", "", _costs(rows[-1], extrapolated)), "Measuring accuracy is not counted."],
        "Jumps": _jumps(config, triggers),
        "Versions": [", ".join(f"{name} {number}" for name, number in read_json(directory / VERSIONS).items())],
        "Citation": ["EffOPD is the method of [arXiv 2605.11739](https://arxiv.org/abs/2605.11739):", _CITATION],
    }
    parts = [_MARK, f"# {directory.resolve().name}", _summary(config, rows, best_step, extrapolated)]
    for title, paragraphs in sections.items():
        parts += [f"## {title}", *paragraphs] if paragraphs else []
    return ModelCard(f"---\n{metadata.to_yaml()}\n---\n\n" + "\n\n".join(parts) + "\n")


def _summary(
    config: Mapping[str, Any],
    rows: list[dict[str, Any]],
    best_step: int | None,
    extrapolated: Mapping[str, Any] | None,
) -> str:
    """Say in some sentences what was trained, and how well it does."""
    student, teacher = _shown(config["model_name_or_path"]), config.get("teacher_model_name_or_path")
    data = _shown(config["dataset_name"], "datasets/")
    how = f"distilled from {_shown(teacher)} on completions of its own" if teacher else "trained on rewards"
    words = [f"{student}, {how}, with the prompts of {data}, for {rows[-1]['step']:,} steps."]
    if best_step is not None:
        words.append(f"The model is that of step {best_step:,}, the best by its accuracy.")
    measured = [row for row in rows if row["accuracy"] is not None and best_step in (None, row["step"])]
    if measured:
        evaluated = _shown(config["evaluation_dataset_name"], "datasets/")
        words.append(f"After step {measured[-1]['step']:,} its accuracy on {evaluated} was {_accuracy(measured[-1])}.")
    if extrapolated is not None:
        found = f", whose accuracy was {_accuracy(extrapolated)}" if extrapolated.get("accuracy") is not None else ""
        words.append(f"AlphaOPD made of it the model in `{ALPHAOPD_MODEL}`{found}.")
    return " ".join(words)


def _accuracy(measured: Mapping[str, Any]) -> str:
    error = measured["accuracy_stderr"]
    return f"{measured['accuracy']:.3f}" + ("" if error is None else f" ± {error:.3f}")


def _settings(config: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """The settings that say most, and all those of EffOPD."""
    for name in _SETTINGS:
        if (value := config.get(name)) not in (None, []):
            yield f"`{name}`", f"`{value}`"
    yield "`acceleration`", f"`{config['acceleration']}`"
    if config["acceleration"] != "none":
        settings = resolve_preset(config["acceleration"], **config["extrapolation"] or {})
        values = {name: value for name, value in asdict(settings).items() if value is not None}
        yield from ((f"`{name}` (EffOPD)", f"`{value}`") for name, value in values.items())


def _costs(row: Mapping[str, Any], extrapolated: Mapping[str, Any] | None) -> Iterable[tuple[str, str]]:
    """The costs of the run so far; those that a method does not have are left out."""
    for name, words in _COSTS.items():
        if row[name]:
            yield words, f"{row[name]:,}"
    if extrapolated is not None:
        yield "beside these, by whose accuracy AlphaOPD extrapolated", f"{extrapolated['evaluation_rollouts']:,}"
    yield "seconds", f"{row['seconds_total']:,.1f}"
    yield from ((f"of them, {phase}", f"{seconds:,.1f}") for phase, seconds in row["seconds"].items() if seconds)


def _jumps(config: Mapping[str, Any], triggers: list[dict[str, Any]]) -> list[str]:
    """List the extrapolations that were accepted; empty without EffOPD."""
    if config["acceleration"] == "none":
        return []
    taken = [trigger for trigger in triggers if trigger["accepted_scale"] > 0]
    words = f"EffOPD tried to extrapolate after {len(triggers):,} steps, and jumped {len(taken):,} times."
    if shortened := sum(trigger["accepted_scale"] < 0 for trigger in triggers):
        words += f" {shortened:,} times it took a part of the update back."
    if not taken:
        return [words]
    if len(taken) > _JUMPS:
        words += f" The first {_JUMPS} jumps; all of them are in `{RECORDS}`:"
    rows = [(f"{trigger['step']:,}", f"{trigger['accepted_scale']:g}") for trigger in taken[:_JUMPS]]
    return [words, _table("step", "times the update since the last trigger", rows)]


def _table(left: str, right: str, rows: Iterable[tuple[str, str]]) -> str:
    """Make a table of two columns in Markdown."""
    return "\n".join([f"| {left} | {right} |", "|---|---|", *(f"| {one} | {other} |" for one, other in rows)])


def _is_on_hub(name: str) -> bool:
    """Whether a model or dataset is named as on the hub."""
    if name.partition(":")[0] == "world":
        return False
    try:
        return local_path(name) is None
    except DataError:  # a path that was there when the run began
        return False


def _shown(name: str, folder: str = "") -> str:
    """Name a model, or a dataset with `datasets/` as its folder on the hub, without saying where on this disk it is."""
    if _is_on_hub(name):
        return f"[{name}](https://huggingface.co/{folder}{name})"
    return f"`{name if name.partition(':')[0] == 'world' else Path(name).name}`"
