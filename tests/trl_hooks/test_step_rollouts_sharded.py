"""Two gloo processes that each hold a part of student and teacher, against one that holds both whole."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from trl_hooks import run_step_rollouts_sharded as sharded

SCRIPT = Path(sharded.__file__)


def test_two_shards_score_as_one_process_does(tmp_path: Path) -> None:
    whole = sharded.run(tmp_path / "one", 8)
    out = tmp_path / "two"
    out.mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", SCRIPT, out],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(SCRIPT.parents[1])},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    seen = json.loads((out / "seen.json").read_text())["scores"]
    assert whole[0][-1] == 0 < whole[1][-1] < whole[2][-1]
    assert whole[0] == whole[3]
    assert whole[0][0] != whole[1][0]
    for left, right in zip(whole, seen, strict=True):
        assert left == pytest.approx(right, rel=1e-4, abs=1e-6)
