"""DAPO and PPO on the processes there are (DDP): every process must end with the same weights, and continue to them."""

import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate import PartialState
from small_rl_runs import PLAIN, rl_world
from torchrun import leave

from effopd.training import build_trainer

COUNTS = ("replaced_groups", "equal_groups_left")


def train(out: Path, checkpoint: str | None = None, **config: Any) -> tuple[torch.Tensor, Any, list[Any]]:
    """All weights in one vector, those of the critic included; the row of the last step; and what was logged first."""
    trainer, metrics = build_trainer(*rl_world(out, PLAIN, max_steps=2, learning_rate=1e-3, **config))
    trainer.train(resume_from_checkpoint=checkpoint)
    parameters = [*trainer.model.parameters(), *(trainer.critic.critic.parameters() if trainer.critic else ())]
    logged = [trainer.state.log_history[0].get(f"dynamic_sampling/{name}") for name in COUNTS]
    return torch.cat([parameter.detach().flatten() for parameter in parameters]), metrics.row, logged


def everywhere(value: Any) -> list[Any]:
    """What each process has."""
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def main(out: Path) -> None:
    state, seen = PartialState(cpu=True), {}
    for method in ("dapo", "ppo"):
        weights, row, logged = train(out / method, method=method)
        resumed, again, _ = train(out / method, str(out / method / "checkpoint-1"), method=method)
        copies = [torch.empty_like(weights) for _ in range(state.num_processes)]
        dist.all_gather(copies, weights)
        seen[method] = {
            "same_everywhere": all(copy.equal(weights) for copy in copies),
            "same_resumed": resumed.equal(weights),
            "rollouts": [row["rollouts"], again["rollouts"]],
            "logged": everywhere(logged),
        }
        state.wait_for_everyone()
    if state.is_main_process:
        (out / "seen.json").write_text(json.dumps(seen))
    leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
