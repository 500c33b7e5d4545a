"""Which checkpoints count as complete, and what is said of those that do not."""

import json
import logging
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from effopd.errors import CheckpointError, ConfigurationError
from effopd.training.complete_checkpoints import (
    COMPLETE,
    MONITOR,
    check_processes,
    mark_complete,
    newest_checkpoint,
    read_complete,
)


def config(processes: int = 1, batch: int = 8) -> Any:
    return SimpleNamespace(per_device_train_batch_size=batch, gradient_accumulation_steps=2, world_size=processes)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    for step in (2, 4):
        path = tmp_path / f"checkpoint-{step}"
        (path / "effopd").mkdir(parents=True)
        save_file({"w": torch.arange(100.0)}, path / "model.safetensors")
        save_file({"w": torch.arange(100.0)}, path / "effopd" / "anchor.safetensors")
        torch.save({"w": torch.arange(100.0)}, path / "optimizer.pt")
        (path / f"{COMPLETE}.tmp").touch()  # of a save that was killed
        mark_complete(path, {"rollouts": 3.0}, config())
    return path


def test_what_is_whole_is_read(checkpoint: Path) -> None:
    saved = read_complete(checkpoint)
    assert saved["totals"] == {"rollouts": 3.0}
    assert list(saved["files"]) == ["effopd/anchor.safetensors", "model.safetensors", "optimizer.pt"]
    assert newest_checkpoint(checkpoint.parent) == checkpoint
    assert newest_checkpoint(checkpoint.parent, other_than=checkpoint) == checkpoint.with_name("checkpoint-2")


def test_the_monitors_file_may_be_removed(checkpoint: Path) -> None:
    (checkpoint / MONITOR).touch()
    mark_complete(checkpoint, {}, config())
    (checkpoint / MONITOR).unlink()
    assert MONITOR not in read_complete(checkpoint)["files"]


@pytest.mark.parametrize("name", ["effopd/anchor.safetensors", "model.safetensors", "optimizer.pt"])
def test_a_damaged_file_is_named_and_so_is_the_checkpoint_before(checkpoint: Path, name: str) -> None:
    file = checkpoint / name
    whole = file.read_bytes()
    file.write_bytes(bytes(255 - byte for byte in whole[:32]) + whole[32:])
    with pytest.raises(
        CheckpointError, match=rf"{name}: .*remove it: the same command then continues from checkpoint-2"
    ):
        read_complete(checkpoint)
    os.truncate(file, 50)
    with pytest.raises(CheckpointError, match=rf"{name} has 50 bytes, and had {len(whole)} when it was written"):
        read_complete(checkpoint)
    file.unlink()
    with pytest.raises(CheckpointError, match=rf"lacks {name}, which it had"):
        read_complete(checkpoint)


def test_a_mark_that_is_missing_or_damaged(checkpoint: Path) -> None:
    os.truncate(checkpoint / COMPLETE, 20)
    with pytest.raises(CheckpointError, match=f"{COMPLETE} is no JSON"):
        read_complete(checkpoint)
    (checkpoint / COMPLETE).unlink()
    with pytest.raises(CheckpointError, match="is not a complete checkpoint"):
        read_complete(checkpoint)
    assert newest_checkpoint(checkpoint.parent) == checkpoint.with_name("checkpoint-2")


def test_marks_of_earlier_versions_are_read(checkpoint: Path) -> None:
    old = {"totals": {}, "state": ["optimizer.pt"]}
    (checkpoint / COMPLETE).write_text(json.dumps(old))
    assert read_complete(checkpoint) == old
    check_processes(checkpoint, config(processes=2))
    (checkpoint / "optimizer.pt").unlink()
    with pytest.raises(CheckpointError, match=r"lacks optimizer\.pt"):
        read_complete(checkpoint)


def test_what_torch_has_not_written_to_its_end_is_not_marked(checkpoint: Path) -> None:
    (checkpoint / COMPLETE).unlink()
    os.truncate(checkpoint / "optimizer.pt", 300)
    with pytest.raises(CheckpointError, match=r"optimizer\.pt was not written to its end"):
        mark_complete(checkpoint, {}, config())
    assert not (checkpoint / COMPLETE).exists()


def test_another_number_of_processes(checkpoint: Path, caplog: pytest.LogCaptureFixture) -> None:
    check_processes(checkpoint, config())
    assert not caplog.records
    with pytest.raises(ConfigurationError, match=r"processes was 1, and is 2 now: a step would take 32 prompts"):
        check_processes(checkpoint, config(processes=2))
    with caplog.at_level(logging.WARNING):
        check_processes(checkpoint, config(processes=2, batch=4))
    assert "other random numbers" in caplog.text
