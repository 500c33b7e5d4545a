"""Which part of a parameter this process holds, and how many processes hold the same one."""

import math

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor


def local_part(parameter: torch.Tensor) -> torch.Tensor:
    """Return the part of a parameter that this process holds; it shares the parameter's memory."""
    return parameter.to_local() if isinstance(parameter, DTensor) else parameter.detach()


def num_replicas(parameter: torch.Tensor) -> int:
    """Count the processes that hold each element of this parameter."""
    if not isinstance(parameter, DTensor):
        return num_processes()
    shards = math.prod(
        parameter.device_mesh.size(dim)
        for dim, placement in enumerate(parameter.placements)
        if not placement.is_replicate()
    )
    return num_processes() // shards


def num_processes() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def all_reduce(tensor: torch.Tensor, op: dist.ReduceOp.RedOpType) -> torch.Tensor:
    """Combine a tensor of each process into one on the CPU, by a sum or another operation. This is collective."""
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    reduced = tensor.to(device)
    dist.all_reduce(reduced, op=op)
    return reduced.cpu()
