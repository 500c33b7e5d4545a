"""`ExtrapolatingWorker`: verl's worker, which also keeps the anchor of its shard of the weights."""

from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.fsdp import FSDPModule
from typing_extensions import override
from verl.single_controller.base.decorator import Dispatch, register
from verl.workers.engine_workers import ActorRolloutRefWorker

from effopd.extrapolation import ExtrapolationConfig, Snapshot
from effopd.extrapolation.optimizers import check_optimizer
from effopd.extrapolation.saved_state import load_state, save_state
from effopd.parameters import by_clean_name, select


class ExtrapolatingWorker(ActorRolloutRefWorker):
    """Process of verl that trains a shard of the model, with a `Snapshot` of the shard.

    All methods are called on all workers at once. The weights that they write are those that verl's `update_weights`
    sends to the rollout engine, and that its checkpoints hold.
    """

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def start_extrapolation(self, config: ExtrapolationConfig) -> list[str]:
        """Take the weights as they are for the anchor, and return the names of the parameters to extrapolate."""
        self._settings = asdict(config)
        self._selection = config.parameters
        self._snapshot = Snapshot(self._selected(), config.snapshot_device)
        return list(self._snapshot.parameters)

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def call_snapshot(self, method: str, *args: Any) -> Any:
        """Call a method of the snapshot. Where it is collective, all workers return the same.

        Raises:
            UnsupportedError: The optimizer keeps weights of its own.
        """
        if method == "displacement":
            check_optimizer(self.actor.engine.optimizer)
        self._snapshot.parameters = self._selected()  # offloading may have put others in their place
        return getattr(self._snapshot, method)(*args)

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    @override
    def save_checkpoint(self, local_path: str, *args: Any, **kwargs: Any) -> None:
        """Save verl's checkpoint, and the anchor in it, in the folder `effopd`; verl removes both together."""
        super().save_checkpoint(local_path, *args, **kwargs)
        save_state(Path(local_path), self._snapshot, {"config": self._settings}, _processes(), dist.get_rank() == 0)

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    @override
    def load_checkpoint(self, local_path: str, *args: Any, **kwargs: Any) -> None:
        """Load verl's checkpoint, and the anchor from it."""
        super().load_checkpoint(local_path, *args, **kwargs)
        load_state(Path(local_path), self._snapshot, self._settings, _processes())

    def _selected(self) -> dict[str, torch.Tensor]:
        """Return the live parameters to extrapolate, sharded, by their plain names.

        Without `reshard_after_forward`, a forward pass leaves parameters gathered, which are others than the shards.
        """
        module = self.actor.engine.module
        for part in module.modules():
            if isinstance(part, FSDPModule):
                part.reshard()
        trained = by_clean_name((name, each) for name, each in module.named_parameters() if each.requires_grad)
        return {name: trained[name] for name in select(trained, self._selection)}


def _processes() -> SimpleNamespace:
    """Return what saving and loading ask of an accelerator."""
    return SimpleNamespace(
        process_index=dist.get_rank(), num_processes=dist.get_world_size(), wait_for_everyone=dist.barrier
    )
