"""Two gloo processes: FSDP2 against one process, given the same scores; DDP with real rollouts."""

import inspect
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from tiny import assert_same, tiny_model
from torchrun import torchrun
from transformers import Trainer

from effopd.extrapolation.saved_state import load_state
from effopd.extrapolation.snapshot import Snapshot
from extrapolation import run_sharded


def launch(script: str, out: Path, *arguments: str | Path, processes: int = 2) -> dict[str, Any]:
    """Run a script of this folder under torchrun; returns what it left in `seen.json`."""
    torchrun(Path(run_sharded.__file__).with_name(script), out, *arguments, processes=processes)
    seen: dict[str, Any] = json.loads((out / "seen.json").read_text())
    return seen


def anchor(checkpoint: Path) -> dict[str, torch.Tensor]:
    """What one process, whose model is whole, reads of the anchor in a checkpoint."""
    snapshot = Snapshot(dict(tiny_model(3).named_parameters()))
    config = json.loads((checkpoint / "effopd" / "state.json").read_text())["config"]
    load_state(checkpoint, snapshot, config, Accelerator(cpu=True))
    previous = snapshot._current if snapshot._has_previous else {}
    return snapshot._anchor | {f"previous.{name}": tensor for name, tensor in previous.items()}


# To `cpu:0`, which torch does not know; on GPUs it is right. transformers 5.10.1 does so, 5.24 does not.
MAPS_TO_THE_DEVICE = "map_location = self.args.device if" in inspect.getsource(Trainer._load_optimizer_and_scheduler)


@pytest.mark.skipif(MAPS_TO_THE_DEVICE, reason="this version of transformers cannot resume several processes on CPUs")
def test_replicas_agree_and_resume_to_the_bit(tmp_path: Path) -> None:
    seen = launch("run_replicated.py", tmp_path)
    assert seen.pop("moved")
    assert seen.pop("shared_moved")
    assert seen.pop("ahead_moved")
    assert seen.pop("ahead_same")
    assert seen.pop("lora_moved")
    assert seen.pop("lora_same")
    assert seen.pop("shared") == [8, 8, 8]
    assert seen.pop("diverged") == [12, 12]
    # 11 prompts over 2 processes: 6 each, one of which only counts as cost.
    assert seen == {"rollouts": [12, 12, 12], "same_everywhere": True, "same_resumed": True}
    files = {path.name for path in (tmp_path / "checkpoint-3" / "effopd").iterdir()}
    assert files == {"anchor-00000-of-00001.safetensors", "state.json"}


def test_two_shards_do_what_one_process_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_sharded.callback_module, "validate", run_sharded.callback_module.validate)
    one = {guide: run_sharded.run(tmp_path / "one" / guide, guide) for guide in run_sharded.GUIDES}
    both = launch("run_sharded.py", tmp_path / "two", tmp_path / "one" / "all" / "checkpoint-3")
    anchors = [anchor(tmp_path / place) for place in ("one/all/checkpoint-3", "two/all/checkpoint-3", "two/resaved")]
    assert len(anchors[0]) == 2 * len(one["all"]["weights"])  # that of step 1 as well
    for resharded in anchors[1:]:
        assert_same(anchors[0], resharded)
    for guide, seen in both.items():
        whole, shards = one[guide], tmp_path / "two" / guide
        assert_same(whole["weights"], load_file(shards / "weights.safetensors"))
        files = {path.name for path in (shards / "checkpoint-3" / "effopd").iterdir()}
        assert files == {*(f"anchor-0000{rank}-of-00002.safetensors" for rank in (0, 1)), "state.json"}
        torch.testing.assert_close(torch.tensor(seen["logits"]), torch.tensor(whole["logits"]), rtol=1e-4, atol=1e-5)
        assert len({tuple(row) for row in seen["logits"]}) == len(seen["logits"]) == 9
        assert [row["accepted_scale"] for row in seen["rows"]] == [2, 0, 4]
        for left, right in zip(whole["rows"], seen["rows"], strict=True):
            for key in ("accepted_scale", "candidates", "baseline", "moving_fraction"):
                assert left[key] == right[key]
            for key in ("delta_norm", "changed_fraction"):
                assert left[key] == pytest.approx(right[key], rel=1e-5, abs=1e-7)
            cosines = left["cosine_to_previous"], right["cosine_to_previous"]
            assert cosines == (None, None) or cosines[0] == pytest.approx(cosines[1], abs=1e-5)
        assert (whole["rows"][-1]["moving_fraction"] < 1) == (guide != "all")
