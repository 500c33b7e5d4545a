"""Frozen models, such as the teacher, under FSDP2, where TRL leaves them whole and on the CPU."""

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from accelerate.utils import DistributedType
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from trl.models import prepare_fsdp


def shard_frozen(model: Any, accelerator: Any) -> Any:
    """Shard a frozen model over the processes as the student will be, layer by layer, if they use FSDP2.

    TRL's `DistillationTrainer` leaves the teacher to accelerate's `prepare_model`, which under FSDP moves nothing: it
    expects models to be sharded afterwards, together with an optimizer. All processes get the weights of the first,
    since by accelerate's default the others have not read them (`fsdp_cpu_ram_efficient_loading`). This is collective.

    Args:
        model: Model that is prepared by accelerate for evaluation, or None.
        accelerator: The trainer's accelerator.

    Returns:
        The sharded model, or `model` itself where FSDP2 is not used.
    """
    state = accelerator.state
    if model is None or state.distributed_type != DistributedType.FSDP or state.fsdp_plugin.fsdp_version != 2:
        return model
    plugin = state.fsdp_plugin
    layers = plugin.transformer_cls_names_to_wrap or getattr(model, "_no_split_modules", None) or ()
    mesh = getattr(accelerator, "torch_device_mesh", None)
    for module in model.modules():
        if type(module).__name__ in layers:
            _copy_from_first(module, accelerator.device)
            fully_shard(
                module,
                reshard_after_forward=plugin.reshard_after_forward,
                mp_policy=plugin.mixed_precision_policy or MixedPrecisionPolicy(),
                mesh=mesh[tuple(accelerator.parallelism_config.fsdp_dim_names)] if mesh is not None else None,
            )
    _copy_from_first(model, accelerator.device)  # what is in no layer
    return prepare_fsdp(model, accelerator)


def _copy_from_first(module: torch.nn.Module, device: torch.device) -> None:
    """Move what is not sharded yet to the process's device, with the values of the first process."""
    tensors: Iterable[torch.Tensor] = (*module.parameters(), *module.buffers())
    for tensor in tensors:
        if not isinstance(tensor, DTensor):
            tensor.data = tensor.data.to(device)
            dist.broadcast(tensor.data, src=0)
