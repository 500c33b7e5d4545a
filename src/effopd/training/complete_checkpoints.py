"""Telling the checkpoints of a run that were written completely, and are as they were written, from all others."""

import logging
import zipfile
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from effopd.errors import CheckpointError, ConfigurationError, DataError
from effopd.files import read_json, write_json

logger = logging.getLogger(__name__)

# A checkpoint that has this file was written completely: it is written after everything else.
COMPLETE = "effopd-complete.json"
# Beginnings of the names of the files and folders that hold the state of the optimizer, of the learning rate and of the
# random numbers. DeepSpeed's begin like the last three.
_STATE = ("optimizer", "scheduler", "rng_state", "global_step", "latest", "zero_to_")
TRAINER_STATE = "trainer_state.json"
# Suffixes of the files that torch writes, which are archives.
_TORCH = (".pt", ".pth")
# Beginnings of the names of what a checkpoint has beside its model.
STATE_FILES = (*_STATE, TRAINER_STATE, "effopd")
# Not in the mark, because training goes on to the same weights without it; the update monitor checks its file itself.
MONITOR = "effopd/monitor.safetensors"


def prompts_per_step(config: Any) -> int:
    """Compute the number of prompts of an optimizer step, over all processes."""
    batch = config.per_device_train_batch_size * config.gradient_accumulation_steps * config.world_size
    return int(batch)


def mark_complete(checkpoint: Path, totals: dict[str, float], config: Any) -> None:
    """Mark a checkpoint as complete. The mark has the size of each of its files, in bytes.

    Args:
        checkpoint: Directory of the checkpoint.
        totals: Counts and seconds so far.
        config: Settings of the training, of which the mark has the number of processes and the prompts per step.

    Raises:
        CheckpointError: A file of torch lacks its end, which torch need not notice when the disk is full.
    """
    for file in checkpoint.rglob("*"):
        if file.suffix in _TORCH and not zipfile.is_zipfile(file):
            raise CheckpointError(f"{file} was not written to its end. Make room on the disk, and start again.")
    sizes = {str(file.relative_to(checkpoint)): file.stat().st_size for file in checkpoint.rglob("*") if file.is_file()}
    files = {name: sizes[name] for name in sorted(sizes) if not name.startswith(COMPLETE) and name != MONITOR}
    by = {"processes": config.world_size, "prompts_per_step": prompts_per_step(config)}
    write_json(checkpoint / COMPLETE, {"totals": totals, **by, "files": files})


def read_complete(checkpoint: Path) -> dict[str, Any]:
    """Read what `mark_complete` has written, and check that the checkpoint has the same files still.

    Of the files of safetensors and torch, the headers are read as well.

    Raises:
        CheckpointError: It is not complete, or a file is missing or damaged.
    """
    if not (checkpoint / COMPLETE).exists():
        raise CheckpointError(
            f"{checkpoint} is not a complete checkpoint of effopd ({COMPLETE} is missing). Resume from one that has it,"
            " or start a new run from its weights."
        )
    saved = read_mark(checkpoint)
    sizes: dict[str, int | None] = saved.get("files") or dict.fromkeys(saved.get("state", []))
    missing = [name for name in sizes if not (checkpoint / name).exists()]
    if missing:
        raise CheckpointError(
            f"{checkpoint} lacks {', '.join(missing)}, which it had when it was written. Without the state of the "
            "optimizer and of the random numbers, training would go on to other weights. Put them back, or start a new "
            "run from its weights."
        )
    for name, size in sizes.items():
        if size is not None and (found := (checkpoint / name).stat().st_size) != size:
            raise unreadable(checkpoint, f"{name} has {found} bytes, and had {size} when it was written")
    for name in sizes:
        try:
            _read_headers(checkpoint / name)
        except (SafetensorError, zipfile.BadZipFile, OSError) as error:
            raise unreadable(checkpoint, f"{name}: {error}") from error
    return saved


def read_mark(checkpoint: Path) -> dict[str, Any]:
    """Read what `mark_complete` has written, without a look at the other files.

    Raises:
        CheckpointError: It is damaged.
    """
    try:
        return read_json(checkpoint / COMPLETE)
    except DataError as error:
        raise unreadable(checkpoint, f"{COMPLETE} is no JSON") from error


def check_processes(checkpoint: Path, config: Any) -> None:
    """Check that training takes as many prompts per step as it did; with another number of processes, warn.

    Raises:
        ConfigurationError: It takes another number of prompts.
    """
    saved = read_mark(checkpoint)
    before, now = saved.get("prompts_per_step"), prompts_per_step(config)
    if before is None or config.world_size == saved["processes"]:
        return
    change = f"{checkpoint}: the number of processes was {saved['processes']}, and is {config.world_size} now"
    if before != now:
        raise ConfigurationError(
            f"{change}: a step would take {now} prompts, and took {before}. Change per_device_train_batch_size or "
            f"gradient_accumulation_steps so that together with the number of processes they make {before}."
        )
    logger.warning("%s: from here on, other random numbers are drawn than without the interruption.", change)


def _read_headers(file: Path) -> None:
    if file.suffix == ".safetensors":
        with safe_open(file, framework="pt"):
            pass
    elif file.suffix in _TORCH:
        with zipfile.ZipFile(file) as archive:
            for member in archive.infolist():
                archive.open(member).close()


def unreadable(checkpoint: Path, why: str) -> CheckpointError:
    """Make the error of a damaged checkpoint."""
    older = newest_checkpoint(checkpoint.parent, other_than=checkpoint)
    return CheckpointError(
        f"{checkpoint} is damaged: {why}. Put an intact copy in its place, or remove it: the same command then "
        f"{goes_on_from(older)}."
    )


def newest_checkpoint(directory: Path, other_than: Path | None = None) -> Path | None:
    """Find the checkpoint with the most steps among those that were written completely; None if there is none.

    Args:
        directory: Run directory.
        other_than: Checkpoint that does not count.
    """
    complete = {
        int(number): path.parent
        for path in directory.glob(f"checkpoint-*/{COMPLETE}")
        if (number := path.parent.name.removeprefix("checkpoint-")).isdecimal() and path.parent != other_than
    }
    return complete[max(complete)] if complete else None


def goes_on_from(checkpoint: Path | None) -> str:
    """Say from where a run that is started again goes on."""
    return f"continues from {checkpoint.name}" if checkpoint else "starts anew"


def check_zero_saves(trainer: Any) -> None:
    """Refuse a setting of DeepSpeed ZeRO-3 with which the run would end without a model."""
    plugin = getattr(trainer.accelerator.state, "deepspeed_plugin", None)
    if plugin is None or plugin.zero_stage != 3:
        return
    if not plugin.deepspeed_config["zero_optimization"].get("stage3_gather_16bit_weights_on_model_save"):
        raise ConfigurationError(
            "DeepSpeed would leave the final model in parts. Set stage3_gather_16bit_weights_on_model_save to true in "
            "its zero_optimization, or zero3_save_16bit_model: true in the configuration of accelerate."
        )
