"""The snapshot of ZeRO's masters, without DeepSpeed."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from effopd.errors import CheckpointError
from effopd.extrapolation.zero_snapshot import ZeroSnapshot


def snapshot(master: torch.Tensor) -> ZeroSnapshot:
    """Make the snapshot of a model of one parameter, at stage 2."""
    parameter: Any = SimpleNamespace(_hp_mapping=SimpleNamespace(hp_fragment=master))
    return ZeroSnapshot({"weight": parameter}, SimpleNamespace(update_lp_params=lambda: None))


def test_an_anchor_is_for_as_many_processes_as_saved_it(tmp_path: Path) -> None:
    path = tmp_path / "anchor-00000-of-00001.safetensors"
    snapshot(torch.arange(4.0)).save(path)
    resumed = snapshot(torch.zeros(4))
    with pytest.raises(CheckpointError, match=r"saved by 2 processes, and now there are 1.*resume with 2"):
        resumed.load(path, path)
    resumed.load(path)
    assert resumed._anchor["weight"].tolist() == [0, 1, 2, 3]
