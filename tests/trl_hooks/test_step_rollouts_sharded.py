"""Two gloo processes that each hold a part of student and teacher, against one that holds both whole."""

import json
from pathlib import Path

import pytest
from torchrun import torchrun

from trl_hooks import run_step_rollouts_sharded as sharded


def test_two_shards_score_as_one_process_does(tmp_path: Path) -> None:
    whole = sharded.run(tmp_path / "one", 8)
    out = tmp_path / "two"
    out.mkdir()
    torchrun(Path(sharded.__file__), out)
    seen = json.loads((out / "seen.json").read_text())["scores"]
    assert whole[0][-1] == 0 < whole[1][-1] < whole[2][-1]
    assert whole[0] == whole[3]
    assert whole[0][0] != whole[1][0]
    for left, right in zip(whole, seen, strict=True):
        assert left == pytest.approx(right, rel=1e-4, abs=1e-6)
