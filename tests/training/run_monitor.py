"""An update monitor on the processes there are: data parallel with a plain `Trainer`, then a model that FSDP2 shards.

The sharded model is moved by a script instead of an optimizer, because accelerate has no FSDP on CPUs.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from datasets import Dataset
from tiny import tiny_model
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torchrun import leave
from transformers import Trainer, TrainingArguments

from effopd import UpdateMonitorCallback


def plain_trainer(out: Path, model: Any = None, **overrides: Any) -> Trainer:
    """Six steps of a random model on random tokens."""
    settings: dict[str, Any] = {
        "per_device_train_batch_size": 4,
        "max_steps": 6,
        "learning_rate": 1e-3,
        "report_to": "none",
        "use_cpu": True,
        "save_strategy": "no",
        "disable_tqdm": True,
    }
    ids = torch.randint(3, 12, (64, 8), generator=torch.Generator().manual_seed(0)).tolist()
    dataset = Dataset.from_list([{"input_ids": row, "labels": row} for row in ids])
    args = TrainingArguments(output_dir=str(out), **settings | overrides)
    return Trainer(model=model or tiny_model(0), args=args, train_dataset=dataset)


def monitored(trainer: Any, **settings: Any) -> UpdateMonitorCallback:
    """Add a monitor that measures every other step, whatever it takes."""
    monitor = UpdateMonitorCallback(trainer, **{"every": 2, "max_share": None} | settings)
    trainer.add_callback(monitor)
    return monitor


def read_rows(out: Path) -> list[dict[str, Any]]:
    """What a monitor wrote, without the times."""
    lines = [json.loads(line) for line in (out / "updates.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in ("seconds", "share")} for line in lines]


def run_scripted(out: Path) -> None:
    """Move the weights six times, being interrupted and resumed after the fifth, from a checkpoint after the third."""
    model = tiny_model(0)
    if dist.is_initialized():
        for layer in model.model.layers:
            fully_shard(layer)
        fully_shard(model)
        assert all(isinstance(parameter, DTensor) for parameter in model.parameters())
    trainer = plain_trainer(out, model)
    monitor = UpdateMonitorCallback(trainer, 2, max_share=None)
    args, state, control = trainer.args, trainer.state, trainer.control
    monitor.on_train_begin(args, state, control)
    weights = {}
    for step in (1, 2, 3, 4, 5, 3, 4, 5, 6):
        if step == 3 and weights:
            state.global_step = step
            with torch.no_grad():
                for parameter, saved in zip(model.parameters(), weights[3], strict=True):
                    parameter.copy_(saved)
            monitor = UpdateMonitorCallback(trainer, 2, max_share=None)
            monitor._remember_checkpoint(str(out / "checkpoint-3"))
            monitor.on_train_begin(args, state, control)
            continue
        monitor.on_step_begin(args, state, control)
        state.global_step = step
        for index, parameter in enumerate(model.parameters()):
            delta = 1e-2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(100 * step + index))
            if isinstance(parameter, DTensor):
                delta = distribute_tensor(delta, parameter.device_mesh, parameter.placements)
            with torch.no_grad():
                parameter.add_(delta)
        monitor.on_step_end(args, state, control)
        if step == 3:
            weights[3] = [parameter.detach().clone() for parameter in model.parameters()]
            monitor.on_save(args, state, control)
            trainer.accelerator.wait_for_everyone()


def main(out: Path) -> None:
    trainer = plain_trainer(out / "replicated", per_device_train_batch_size=2)
    monitor = monitored(trainer)
    trainer.train()
    seen: list[Any] = [None] * 2
    dist.all_gather_object(seen, (monitor.last, trainer.state.log_history[:3]))
    assert seen[0] == seen[1]
    run_scripted(out / "sharded")
    leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
