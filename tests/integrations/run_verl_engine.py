"""verl's FSDP2 engine in two processes, extrapolated with scores that are given; run under torchrun.

Each process is worker and driver at once: what verl's worker group does through Ray is a call here.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import verl  # noqa: F401  before its parts, and with what VERL_USE_EXTERNAL_MODULES names
from safetensors.torch import save_file
from verl_worlds import configuration

from effopd.errors import UnsupportedError
from effopd.extrapolation import Extrapolator, Score
from effopd.integrations.verl.remote_snapshot import RemoteSnapshot
from effopd.integrations.verl.settings import read_settings
from effopd.integrations.verl.worker import ExtrapolatingWorker

# Accepts 2 and 4, then nothing, then 2 at the third trigger, by the steps 1, 2, 4.
SCORES = {1: [0.1, 0.2, 0.3, 0.1], 2: [0.5, 0.4], 4: [0.1, 0.3, 0.2]}


class Group:
    """Calls this process's worker, as a worker group calls all of them."""

    def __init__(self, worker: ExtrapolatingWorker) -> None:
        self.worker = worker

    def __getattr__(self, name: str) -> Any:
        return lambda *args: [getattr(self.worker, name)(*args)]


class Run:
    """A worker with verl's engine, and the extrapolator that drives it."""

    def __init__(self, out: Path) -> None:
        config = configuration(out / "world", out)
        self.worker = ExtrapolatingWorker(config.actor_rollout_ref, role="actor")
        self.worker.init_model()
        self.engine = self.worker.actor.engine
        settings = read_settings({"scales": [2, 4, 6]})
        self.snapshot = RemoteSnapshot(Group(self.worker), settings)
        self.extrapolator = Extrapolator(self.snapshot, self.validate, scales=settings.scales)
        self.tried: list[dict[str, torch.Tensor]] = []
        self.step_number = 0

    def published(self) -> dict[str, torch.Tensor]:
        """What verl's `update_weights` sends to the rollout engine, gathered by verl."""
        return {name: tensor.detach().clone() for name, tensor in self.engine.get_per_tensor_param()[0]}

    def forward(self) -> torch.Tensor:
        ids = torch.tensor([[3, 12, 5, 7, 2 + self.step_number + 5 * dist.get_rank()]])
        return self.engine.module(input_ids=ids).logits

    def validate(self, seed: int) -> Score:
        self.tried.append(self.published())
        with self.engine.eval_mode(), torch.no_grad():
            self.forward()  # leaves the root's parameters gathered
        return Score(next(self.scores))

    def train(self, extrapolate: bool = True) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """Do a step, and return the weights that the engine publishes before and after its extrapolation."""
        self.step_number += 1
        with self.engine.train_mode():
            self.engine.optimizer_zero_grad()
            self.forward().square().mean().backward()
            self.engine.optimizer_step()
        before = self.published()
        self.scores = iter(SCORES.get(self.step_number, []))
        self.tried.clear()
        self.result = self.extrapolator.step(self.step_number) if extrapolate else None
        return before, self.published()


def main(out: Path, resume: bool) -> None:
    torch.set_num_threads(1)
    run = Run(out)
    rank = dist.get_rank()
    if resume:
        run.worker.load_checkpoint(str(out / "checkpoint"))
        run.step_number = 3
        _, weights = run.train()
        if rank == 0:
            save_file(weights, out / "resumed.safetensors")
        return
    kept = {"0": run.published()}
    seen = []
    for step in range(1, 5):
        before, after = run.train()
        kept |= {f"{step}.before": before, f"{step}": after}
        kept |= {f"{step}.tried.{index}": weights for index, weights in enumerate(run.tried)}
        seen.append(run.result and run.result.accepted_scale)
        if step == 3:
            run.worker.save_checkpoint(str(out / "checkpoint"), None, 3)
    parameters = list(run.engine.module.parameters())
    for parameter, state in run.engine.optimizer.state.items():
        state["master"] = parameter.detach().clone()
    refused, norm = "", run.snapshot.last.norms["total"]
    run.step_number = 7  # the next step is the next trigger
    try:
        run.train()
    except UnsupportedError as error:
        refused = str(error)
    everything = {
        "refused": refused,
        "accepted": seen,
        "kinds": sorted({type(parameter).__name__ for parameter in parameters}),
        "elements": [sum(parameter.to_local().numel() for parameter in parameters), sum(p.numel() for p in parameters)],
        "norm": norm,
        "seconds": run.snapshot.seconds,
        "trl": "trl" in sys.modules,
    }
    if rank == 0:
        for name, weights in kept.items():
            save_file(weights, out / f"{name}.safetensors")
        (out / "seen.json").write_text(json.dumps(everything))


if __name__ == "__main__":
    main(Path(sys.argv[1]), resume=sys.argv[2:] == ["--resume"])
