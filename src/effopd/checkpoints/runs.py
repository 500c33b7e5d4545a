"""The models that a training run left behind."""

import filecmp
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from effopd.checkpoints.model import weight_files
from effopd.errors import DataError
from effopd.files import read_json
from effopd.models.directory import ADAPTER_CONFIG, ADAPTER_WEIGHTS, INDEX, WEIGHTS, weights_kind
from effopd.models.find import model_directory

_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
# Files that tell a model's step, and what they call it: the Trainer's, then that of a finished run of effopd.
_STEPS = {"trainer_state.json": "global_step", "run.json": "steps"}


class Checkpoint(NamedTuple):
    """A model of a run.

    Attributes:
        step: Optimizer steps taken; None where nothing tells.
        directory: A model or adapter.
    """

    step: int | None
    directory: Path


def find_checkpoints(path: str | Path | Sequence[str | Path]) -> list[Checkpoint]:
    """The models of a run, in the order of training.

    Args:
        path: A run directory as the Hugging Face Trainer writes it, with folders `checkpoint-N` and perhaps the final
            model beside them; one model directory or hub name; or a list of those.

    Returns:
        Of a run, the checkpoints by step, and the final model unless a checkpoint has the same step (by the final
        model's `trainer_state.json` or `run.json`) or the same bytes in its weights; without a known step it comes
        last. Of a list, its models in the order given, with the steps that those files or their names tell.

    Raises:
        DataError: There is no model, or a directory holds something else.
    """
    if not isinstance(path, str | Path):
        if not path:
            raise DataError("An empty list of models; expected at least one directory.")
        return [_checkpoint(model_directory(each)) for each in path]
    root = model_directory(path)
    folders = [entry for entry in root.iterdir() if entry.is_dir() and _CHECKPOINT.fullmatch(entry.name)]
    checkpoints = sorted((_checkpoint(folder) for folder in folders), key=lambda found: found.step or 0)
    if checkpoints and not any((root / name).exists() for name in (WEIGHTS, INDEX, ADAPTER_WEIGHTS, ADAPTER_CONFIG)):
        return checkpoints
    final = _checkpoint(root)
    if final.step is None:
        if any(_same_weights(final.directory, found.directory) for found in reversed(checkpoints)):
            return checkpoints
        return [*checkpoints, final]
    if any(final.step == found.step for found in checkpoints):
        return checkpoints
    return sorted([*checkpoints, final], key=lambda found: found.step or 0)


def _checkpoint(directory: Path) -> Checkpoint:
    weights_kind(directory)  # raises where there is no model
    match = _CHECKPOINT.fullmatch(directory.name)
    return Checkpoint(int(match[1]) if match else _recorded_step(directory), directory)


def _recorded_step(directory: Path) -> int | None:
    for name, key in _STEPS.items():
        found = read_json(directory / name) if (directory / name).exists() else {}
        step = found.get(key)
        if not isinstance(step, int | None):
            raise DataError(f"{directory / name}: {key} is {step!r}; expected a number. Remove or mend the file.")
        if step is not None:
            return step
    return None


def _same_weights(one: Path, two: Path) -> bool:
    """Byte for byte; unequal files differ early, so that only equal ones are read to their end."""
    files, others = weight_files(one), weight_files(two)
    return [file.name for file in files] == [file.name for file in others] and all(
        file.exists() and other.exists() and filecmp.cmp(file, other, shallow=False)
        for file, other in zip(files, others, strict=True)
    )
