"""Whether two output directories hold the same results, apart from what was measured in seconds."""

import json
import re
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file

from effopd.training.card import CARD
from effopd.training.complete_checkpoints import COMPLETE

# Names of fields that tell how the command went and not what came out of it.
_TIMES = re.compile(r"seconds|(^|_)time|^train_runtime|_per_second$|^share$|^num_resumed$|^node$|^attempt$|^command$")
# Lines of a model card with seconds, and with the directory's name.
_CARD_TIMES = re.compile(r"# |\| (seconds|of them, )")
# What identifies a checkpoint by the dates of its files, which a study trains anew.
_IDENTITY = "files"
# Log files of which every start writes one; the trainer's flops count differently after resuming.
_LEFT_OUT = re.compile(r"(^|/)events\.out\.|(^|/)training_args\.bin$")


def contents(directory: Path) -> dict[str, Any]:
    """Read every file of a directory as what it says, by its path."""
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    names = {path: str(path.relative_to(directory)) for path in files}
    return {names[path]: _content(path) for path in files if not _LEFT_OUT.search(names[path])}


def differences(left: dict[str, Any], right: dict[str, Any]) -> list[str]:
    """Name the files that only one has, with a sign, or that differ."""
    found = [f"-{name}" for name in left.keys() - right.keys()] + [f"+{name}" for name in right.keys() - left.keys()]
    return sorted(found) + [name for name in left if name in right and not _same(left[name], right[name])]


def _content(path: Path) -> Any:
    if path.suffix == ".safetensors":
        return load_file(path)
    if path.suffix in (".pt", ".pth"):
        return torch.load(path, weights_only=False)
    if path.suffix == ".parquet":
        return [_without_times(row) for row in pq.read_table(path).to_pylist()]
    if path.suffix == ".json":
        value = _without_times(json.loads(path.read_text()))
        if path.name == COMPLETE:
            value["files"] = list(value["files"])  # sizes depend on how many digits the seconds have
            totals = value["totals"].items()
            value["totals"] = {name: total for name, total in totals if name.endswith(("rollouts", "tokens"))}
        return value
    if path.suffix == ".jsonl":
        return [_without_times(json.loads(line)) for line in path.read_text().splitlines()]
    if path.name == CARD:
        return [line for line in path.read_text().splitlines() if not _CARD_TIMES.match(line)]
    if path.suffix == ".html":
        return [line for line in path.read_text().splitlines() if f"&quot;{_IDENTITY}&quot;: &quot;" not in line]
    return path.read_bytes()


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {key: each for key, each in value.items() if not (key == _IDENTITY and isinstance(each, str))}
        return {key: _without_times(each) for key, each in kept.items() if not _TIMES.search(str(key))}
    return [_without_times(each) for each in value] if isinstance(value, list) else value


def _same(left: Any, right: Any) -> bool:
    if isinstance(left, torch.Tensor):
        return isinstance(right, torch.Tensor) and left.dtype == right.dtype and torch.equal(left, right)
    if isinstance(left, dict):
        return (
            isinstance(right, dict)
            and left.keys() == right.keys()
            and all(_same(left[key], right[key]) for key in left)
        )
    if isinstance(left, list | tuple):
        return type(left) is type(right) and len(left) == len(right) and all(map(_same, left, right))
    try:
        return bool(left == right) or (left != left and right != right)  # NaN is the same as NaN
    except ValueError:  # an array of numpy
        return bool((left == right).all())
