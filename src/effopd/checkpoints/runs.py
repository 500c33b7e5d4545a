"""Finding the models that a training run left behind."""

import filecmp
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from effopd.checkpoints.model import weight_files
from effopd.errors import DataError
from effopd.files import files_digest, read_json
from effopd.models.directory import ADAPTER_CONFIG, ADAPTER_WEIGHTS, INDEX, WEIGHTS, weights_kind
from effopd.models.find import model_directory

_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
# Files that tell a model's step, with the key that it has there: the Trainer's, then that of a finished run of effopd.
_STEPS = {"trainer_state.json": "global_step", "run.json": "steps"}


class Checkpoint(NamedTuple):
    """A model of a run.

    Attributes:
        step: Number of optimizer steps taken; None if nothing tells it.
        directory: Directory of the model or adapter.
    """

    step: int | None
    directory: Path

    def identity(self) -> dict[str, Any]:
        """Describe the checkpoint as JSON, with a digest of its files by which another one in its place is noticed."""
        files = files_digest(weight_files(self.directory))
        return {"step": self.step, "directory": str(self.directory.resolve()), "files": files}


def find_checkpoints(path: str | Path | Sequence[str | Path]) -> list[Checkpoint]:
    """Find the models of a run, in the order of training.

    Args:
        path: Directory of a run as the Hugging Face Trainer writes it, with folders `checkpoint-N` and perhaps the
            final model beside them; or the directory or hub name of one model; or a list of those.

    Returns:
        For a run, its checkpoints by step, and its final model unless that is one of them. If the final model's
        `trainer_state.json` or `run.json` tells its step, it is the checkpoint of that step. Otherwise it is the
        checkpoint with the same bytes in its weights, or comes last if there is none. For a list, its models in the
        given order, with the steps that those files or the names of the directories tell.

    Raises:
        DataError: There is no model, or a directory holds something else.
    """
    if not isinstance(path, str | Path):
        if not path:
            raise DataError("Got an empty list of models; expected at least one directory.")
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


def step_of(directory: Path) -> int | None:
    """Tell the optimizer step of a model from the name of its folder, or else from the files in it.

    Args:
        directory: Directory of the model. If its name tells the step, it need not exist any more.

    Returns:
        The step; None if nothing tells it.

    Raises:
        DataError: A file of the directory cannot be read.
    """
    match = _CHECKPOINT.fullmatch(directory.name)
    return int(match[1]) if match else _recorded_step(directory)


def _checkpoint(directory: Path) -> Checkpoint:
    weights_kind(directory)  # raises where there is no model
    return Checkpoint(step_of(directory), directory)


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
    """Compare the weights of two models byte by byte. Files that differ do so early; only equal ones are read whole."""
    files, others = weight_files(one), weight_files(two)
    return [file.name for file in files] == [file.name for file in others] and all(
        file.exists() and other.exists() and filecmp.cmp(file, other, shallow=False)
        for file, other in zip(files, others, strict=True)
    )
