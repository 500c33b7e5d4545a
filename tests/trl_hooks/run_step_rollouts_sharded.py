"""`StepRollouts` on a student and a teacher that FSDP2 shards over the processes there are, or on whole."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from accelerate.utils import DistributedType
from tiny import distillation_trainer
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torchrun import leave

from effopd import trl_hooks
from effopd.extrapolation.snapshot import Snapshot
from effopd.trl_hooks.teacher import shard_frozen


def rollouts() -> list[dict[str, torch.Tensor]]:
    """Two micro-batches of four; the second half of each is that of the second process."""
    generator = torch.Generator().manual_seed(0)

    def ids(length: int) -> torch.Tensor:
        return torch.randint(2, 18, (4, length), generator=generator)

    return [
        {
            "prompt_ids": ids(4),
            "prompt_mask": torch.ones(4, 4, dtype=torch.long),
            "completion_ids": ids(6),
            "completion_mask": (torch.arange(6) < torch.tensor([[6], [3], [5], [6]])).long(),
        }
        for _ in range(2)
    ]


def as_under_fsdp2(trainer: Any) -> Any:
    """An accelerator that says what accelerate says under FSDP2, which wants a GPU."""
    plugin = SimpleNamespace(
        fsdp_version=2,
        reshard_after_forward=True,
        mixed_precision_policy=None,
        cpu_offload=None,
        ignored_modules=None,
        transformer_cls_names_to_wrap=None,
    )
    state = SimpleNamespace(distributed_type=DistributedType.FSDP, fsdp_plugin=plugin)
    return SimpleNamespace(state=state, device=trainer.accelerator.device)


def run(out: Path, num_scored: int) -> list[Any]:
    """Score the live weights, two candidates, and the live weights again."""
    trainer: Any = distillation_trainer(out, per_device_train_batch_size=4)
    world, rank = trainer.accelerator.num_processes, trainer.accelerator.process_index
    if dist.is_initialized():
        for layer in trainer.model.model.layers:
            fully_shard(layer)
        fully_shard(trainer.model)
        if rank:  # has not read the teacher, as by accelerate's default
            for parameter in trainer.teacher_model.parameters():
                torch.nn.init.constant_(parameter, float("nan"))
        trainer.teacher_model = shard_frozen(trainer.teacher_model, as_under_fsdp2(trainer))
        layers = trainer.teacher_model.model.layers
        assert all(isinstance(module, FSDPModule) for module in (trainer.teacher_model, *layers))
        assert not trainer.teacher_model.training
        for model in (trainer.model, trainer.teacher_model):
            assert all(isinstance(parameter, DTensor) for parameter in model.parameters())
    trainer.model_wrapped = trainer.model
    share = slice(rank * 4 // world, (rank + 1) * 4 // world)
    trainer._buffered_inputs = [{key: value[share] for key, value in batch.items()} for batch in rollouts()]
    step = trl_hooks.StepRollouts(trainer, lambda: None, num_scored, passes=1)
    snapshot = Snapshot(dict(trainer.model.named_parameters()))
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            parameter.mul_(1.01)
    snapshot.begin()
    scores = []
    for scale in (0.0, 1.0, 7.0, 0.0):
        snapshot.write_candidate(scale)
        trl_hooks.publish_weights(trainer)
        values, kl_to_sampler = step.score()
        scores.append([*sorted(values.tolist()), kl_to_sampler])  # processes share the rollouts out
    return scores


def main(out: Path) -> None:
    dist.init_process_group("gloo")
    seen = {"scores": run(out, 8)}
    if dist.get_rank() == 0:
        (out / "seen.json").write_text(json.dumps(seen))
    leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
