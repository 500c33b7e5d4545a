"""What extrapolation puts into a checkpoint's directory `effopd`, and reads there when training resumes.

anchor-00000-of-00001.safetensors    the anchor and the one before it; under FSDP2 and ZeRO there is a file for each
                                     process, with its part (`effopd.extrapolation.parts`)
state.json                           costs so far, number of acceptances, settings, and number of files; it is written
                                     last
"""

import json
from pathlib import Path
from typing import Any

from effopd.errors import CheckpointError, DataError
from effopd.extrapolation.snapshot import Snapshot
from effopd.files import read_json, write_json
from effopd.run_directory import differing_settings

DIRECTORY, STATE = "effopd", "state.json"


def save_state(checkpoint: Path, snapshot: Snapshot, state: dict[str, Any], accelerator: Any, writes: bool) -> None:
    """Write the anchor, and then the state. This is collective.

    Args:
        checkpoint: Directory of the checkpoint.
        snapshot: Weights to remember; if they are sharded, every process writes its own part.
        state: Costs, number of acceptances and settings, as JSON can hold them.
        accelerator: Accelerator of the trainer.
        writes: Whether this process is one that writes what all processes share.
    """
    directory = checkpoint / DIRECTORY
    paths = _files(directory, accelerator.num_processes if snapshot.is_sharded else 1)
    if snapshot.is_sharded or writes:
        directory.mkdir(parents=True, exist_ok=True)
        snapshot.save(paths[accelerator.process_index if snapshot.is_sharded else 0])
    accelerator.wait_for_everyone()
    if writes:
        for other in {*directory.glob("anchor-*.safetensors")}.difference(paths):
            other.unlink()  # of a save by another number of processes, which was interrupted
        write_json(directory / STATE, state | {"files": len(paths)})


def load_state(checkpoint: Path, snapshot: Snapshot, config: dict[str, Any], accelerator: Any) -> dict[str, Any]:
    """Read the anchor into the snapshot, and return the state.

    Args:
        checkpoint: Directory of the checkpoint.
        snapshot: Snapshot of the same parameters, which may be sharded otherwise than they were.
        config: Settings that training goes on with.
        accelerator: Accelerator of the trainer.

    Raises:
        CheckpointError: The state is not complete, is damaged, or was saved with other settings.
    """
    directory = checkpoint / DIRECTORY
    if not (directory / STATE).exists():
        raise CheckpointError(
            f"{checkpoint} holds no complete extrapolation state ({directory / STATE} is missing): it was "
            "saved without this callback, or while being interrupted. Resume from another checkpoint, or start "
            "from its weights as a new run."
        )
    try:
        state = read_json(directory / STATE)
    except DataError as error:
        raise CheckpointError(f"{error} Or resume from another checkpoint.") from error
    _check_same_settings(state["config"], config, directory)
    files = state.get("files")
    if files is None:  # earlier versions: one file, or a file for each replica
        files = len([*directory.glob("anchor-*.safetensors")])
        paths = sorted(directory.glob("anchor-00000-of-*.safetensors"))[:1]
    else:
        paths = _files(directory, files)
    if missing := [path.name for path in paths if not path.exists()] or (["anchor-*"] if not paths else []):
        raise CheckpointError(
            f"{directory} lacks {', '.join(missing)}: {files} processes saved a file each. Copy the missing files from "
            "where those processes ran."
        )
    snapshot.load(*paths)
    return state


def _files(directory: Path, number: int) -> list[Path]:
    """Name the files of all processes that save one."""
    return [directory / f"anchor-{index:05d}-of-{number:05d}.safetensors" for index in range(number)]


def _check_same_settings(saved: dict[str, Any], config: dict[str, Any], directory: Path) -> None:
    """Refuse to go on by another rule. The device of the copies is no part of the rule."""
    # What always held before these were settings.
    saved = {"random_numbers": "shared", "min_delta": 0.0, "guide": "all"} | saved
    wanted = json.loads(json.dumps(config))
    names = [name for name in wanted if name != "snapshot_device"]
    before, now = ({name: values.get(name) for name in names} for values in (saved, wanted))
    if changed := differing_settings(before, now):
        raise CheckpointError(
            f"{directory} was saved with other extrapolation settings ({'; '.join(changed)}). Resume with those, or "
            "start a new run from the checkpoint's weights."
        )
