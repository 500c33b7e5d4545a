"""Two gloo processes: DAPO, whose processes need different numbers of prompts, and PPO with its critic."""

import json
import os
import subprocess
import sys
from pathlib import Path


def test_replicas_agree_and_resume_to_the_bit(tmp_path: Path) -> None:
    folder = Path(__file__).parent
    script = folder / "run_rl_replicated.py"
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", script, tmp_path],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    seen = json.loads((tmp_path / "seen.json").read_text())
    for method, found in seen.items():
        assert found["same_everywhere"], method
        assert found["same_resumed"], method
        assert found["rollouts"][0] == found["rollouts"][1]
    assert seen["ppo"]["rollouts"][0] == 2 * 2 * 8
    assert seen["dapo"]["rollouts"][0] > 2 * 2 * 8
