"""FSDP2 on two gloo processes against one process: same scales, same weights, given the same scores."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny import assert_same

from extrapolation import run_sharded

SCRIPT = Path(run_sharded.__file__)


def test_two_shards_do_what_one_process_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_sharded.callback_module, "validate", run_sharded.callback_module.validate)
    whole = run_sharded.run(tmp_path / "one")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(SCRIPT.parents[1])}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*command, str(SCRIPT), str(tmp_path / "two")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert_same(whole["weights"], load_file(tmp_path / "two" / "weights.safetensors"))
    seen = json.loads((tmp_path / "two" / "seen.json").read_text())
    assert len(list((tmp_path / "two" / "checkpoint-3" / "effopd").glob("anchor-*-of-00002.safetensors"))) == 2
    torch.testing.assert_close(torch.tensor(seen["logits"]), torch.tensor(whole["logits"]), rtol=1e-4, atol=1e-5)
    assert len({tuple(row) for row in seen["logits"]}) == len(seen["logits"]) == 9
    assert [row["accepted_scale"] for row in seen["rows"]] == [2, 0, 4]
    for left, right in zip(whole["rows"], seen["rows"], strict=True):
        for key in ("accepted_scale", "candidates", "baseline"):
            assert left[key] == right[key]
        for key in ("delta_norm", "changed_fraction"):
            assert left[key] == pytest.approx(right[key], rel=1e-5, abs=1e-7)
        cosines = left["cosine_to_previous"], right["cosine_to_previous"]
        assert cosines == (None, None) or cosines[0] == pytest.approx(cosines[1], abs=1e-5)
