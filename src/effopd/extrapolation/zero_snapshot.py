"""A snapshot of a model that DeepSpeed shards by ZeRO: its float32 master weights are extrapolated.

DeepSpeed trains a flat partition of master weights in each process, and makes the model's own weights from it after
each step: it would lose what is written to the model. So candidates are written to the masters, in place and without
gathering, and then handed on to the model in the way that DeepSpeed's own step does. These are the names of DeepSpeed
that this uses and that it does not promise to keep; all are in version 0.19:

    parameter.ds_id, .ds_numel                      mark a parameter of stage 3; its number of elements
    parameter._hp_mapping.hp_fragment               the masters of a parameter at stages 1 and 2; None without any here
    optimizer.grad_position, .get_param_id          place of a parameter in the partitions of stage 3
    optimizer.fp32_partitioned_groups_flat          the partitions of stage 3
    optimizer._get_param_partition_rank             number of this process among those that share a parameter
    optimizer.update_lp_params                      makes the model's weights from the masters at stages 1 and 2
    optimizer.checkpoint_event_prologue, .checkpoint_event_epilogue
                                                    take apart all parameters of stage 3; gather the persistent ones
    optimizer._reassign_or_swap_out_partitioned_parameters, .fp16_groups
                                                    make this process's part of the model's weights at stage 3
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from typing_extensions import override

from effopd.errors import CheckpointError
from effopd.extrapolation.shards import num_processes
from effopd.extrapolation.snapshot import Snapshot


class ZeroSnapshot(Snapshot):
    """Anchor and current weights of the masters that this process holds.

    Args:
        parameters: Parameters of the model by name, which all train.
        optimizer: DeepSpeed's optimizer of stage 1, 2 or 3, which has the masters.
        device: Device of the copies; see `Snapshot`. Masters that are offloaded to the CPU have their copies there too.
    """

    def __init__(
        self, parameters: Mapping[str, torch.Tensor], optimizer: Any, device: str | torch.device | None = None
    ) -> None:
        super().__init__({name: masters(parameter, optimizer) for name, parameter in parameters.items()}, device)
        self.is_sharded = True
        self._optimizer = optimizer

    @override
    @torch.no_grad()
    def publish(self, alone: bool = False) -> None:
        """Make the model's own weights from the masters. Unless `alone`, this is collective.

        Alone among several processes, it leaves the model as it is. The next step of the optimizer, or the next call
        for all, makes that good.
        """
        if alone and num_processes() > 1:
            return
        optimizer = self._optimizer
        if hasattr(optimizer, "update_lp_params"):
            optimizer.update_lp_params()
            return
        optimizer.checkpoint_event_prologue()
        for index in range(len(optimizer.fp16_groups)):
            optimizer._reassign_or_swap_out_partitioned_parameters(index)
        optimizer.checkpoint_event_epilogue()

    @override
    def load(self, *paths: Path) -> None:
        if len(paths) != num_processes():
            raise CheckpointError(
                f"The extrapolation anchor in {paths[0].parent} was saved by {len(paths)} processes, and now there are "
                f"{num_processes()}. ZeRO cuts the weights into as many parts as processes: resume with {len(paths)}."
            )
        super().load(paths[dist.get_rank() if num_processes() > 1 else 0])  # the others' parts are none of this one's

    @override
    def _num_replicas(self, parameter: torch.Tensor) -> int:
        return 1


def is_zero(parameter: torch.Tensor) -> bool:
    """Whether DeepSpeed trains this parameter by a partition of masters."""
    return hasattr(parameter, "ds_id") or hasattr(parameter, "_hp_mapping")


def masters(parameter: Any, optimizer: Any) -> torch.Tensor:
    """Find the elements of a parameter's float32 master that this process holds.

    Returns:
        float32 [elements], maybe none: a view of DeepSpeed's partition, without the padding at its end.
    """
    if not hasattr(parameter, "ds_id"):
        mapping = parameter._hp_mapping
        if mapping is None:
            return torch.empty(0)
        fragment: torch.Tensor = mapping.hp_fragment
        return fragment.detach()
    group, start, numel = optimizer.grad_position[optimizer.get_param_id(parameter)]
    rank = optimizer._get_param_partition_rank(parameter)
    held = min(max(parameter.ds_numel - rank * numel, 0), numel)
    partition: torch.Tensor = optimizer.fp32_partitioned_groups_flat[group]
    return partition.narrow(0, start, held).detach()
