"""Two gloo processes: DAPO, whose processes need different numbers of prompts, and PPO with its critic."""

import json
from pathlib import Path

from torchrun import torchrun


def test_replicas_agree_and_resume_to_the_bit(tmp_path: Path) -> None:
    torchrun(Path(__file__).with_name("run_rl_replicated.py"), tmp_path)
    seen = json.loads((tmp_path / "seen.json").read_text())
    for method, found in seen.items():
        assert found["same_everywhere"], method
        assert found["same_resumed"], method
        assert found["rollouts"][0] == found["rollouts"][1]
    for_dapo = seen["dapo"]["logged"]
    assert for_dapo[0] == for_dapo[1], "one process's own counts"
    assert for_dapo[0][0] > 0
    assert seen["ppo"]["rollouts"][0] == 2 * 2 * 8
    assert seen["dapo"]["rollouts"][0] > 2 * 2 * 8
