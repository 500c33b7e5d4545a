"""Files that hold each process's part of some tensors, and reading them for another number of processes or sharding.

Beside a part, its file says where in the whole tensor it lies. A process reads from each file what lies in its own
part, so that nothing is gathered, neither on saving nor on loading.
"""

import contextlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch.distributed.tensor import DTensor

from effopd.errors import CheckpointError

_PARTS, _NUM_FILES = "parts", "num_files"  # keys of the file's metadata


class Part(NamedTuple):
    """Where the part that a process holds lies in the whole tensor.

    Attributes:
        shape: Shape of the whole tensor.
        offset: Index of the part's first element in it.
    """

    shape: tuple[int, ...]
    offset: tuple[int, ...]


def part_of(parameter: torch.Tensor) -> Part:
    """Tell which part of a parameter this process holds: a shard of a DTensor, or else all."""
    shape = tuple(parameter.shape)
    if isinstance(parameter, DTensor):
        (chunk,) = parameter.__create_chunk_list__()
        return Part(shape, tuple(chunk.offsets))
    return Part(shape, (0,) * len(shape))


def save_parts(tensors: dict[str, torch.Tensor], parts: Mapping[str, Part], path: Path, *, num_files: int = 1) -> None:
    """Write this process's parts to a safetensors file, under a temporary name until it is complete.

    Args:
        tensors: What is saved, by `GROUP.NAME`.
        parts: Where each lies, by `NAME`.
        path: File to write.
        num_files: Number of files that are needed to have all parts.
    """
    temporary = path.with_name(path.name + ".tmp")
    save_file(tensors, temporary, metadata={_PARTS: json.dumps(parts), _NUM_FILES: str(num_files)})
    temporary.replace(path)


def load_parts(
    paths: Sequence[Path], own: int, group: str, parts: Mapping[str, Part], into: Mapping[str, torch.Tensor]
) -> dict[str, tuple[int, ...]]:
    """Read the parts that this process holds from the files of all processes.

    Args:
        paths: All files of a checkpoint, or the one of a checkpoint that is not sharded.
        own: Number of this process, by which a tensor that it holds whole is read from its own file, if it has one.
        group: Group of the tensors.
        parts: Which part of each tensor is wanted, by name.
        into: Tensors that are filled, by name; those of another shape than the saved ones are left alone.

    Returns:
        Shapes of the whole tensors in the files, by name. A tensor of which a piece is missing has no shape.

    Raises:
        CheckpointError: A file is one of more than were given.
    """
    found: dict[str, tuple[int, ...]] = {}
    numbers = dict.fromkeys(into, 0)
    with contextlib.ExitStack() as stack:
        for index, path in enumerate(paths):
            is_own = index == (own if own < len(paths) else 0)
            file = stack.enter_context(safe_open(path, framework="pt"))
            metadata = file.metadata() or {}
            if (needed := int(metadata.get(_NUM_FILES, 1))) > len(paths):
                raise CheckpointError(
                    f"it is one of {needed} files, one of each process that saved, and got {len(paths)}; save each "
                    "under a name of its own, and give all"
                )
            saved = json.loads(metadata.get(_PARTS, "{}"))
            for key in file.keys():  # noqa: SIM118  (it is no mapping)
                if not key.startswith(f"{group}."):
                    continue
                name, size = key.removeprefix(f"{group}."), file.get_slice(key).get_shape()
                shape, offset = saved.get(name, (size, [0] * len(size)))
                is_whole = name in into and parts[name].shape == tuple(size) == tuple(into[name].shape)
                if is_whole and not is_own:
                    continue
                found[name] = tuple(shape)
                if name in into and parts[name].shape == found[name]:
                    numbers[name] += _copy_overlap(file, key, offset, size, parts[name].offset, into[name])
    lacking = {name for name in into if name in found and numbers[name] < into[name].numel()}
    return {name: shape for name, shape in found.items() if name not in lacking}


def _copy_overlap(
    file: Any, key: str, offset: Sequence[int], size: Sequence[int], start: Sequence[int], target: torch.Tensor
) -> int:
    """Copy what a saved part and a wanted one have in common; return the number of its elements."""
    low = [max(pair) for pair in zip(offset, start, strict=True)]
    high = [min(a + n, b + m) for a, n, b, m in zip(offset, size, start, target.shape, strict=True)]
    if any(a >= b for a, b in zip(low, high, strict=True)):
        return 0
    wanted = tuple(slice(a - b, c - b) for a, b, c in zip(low, start, high, strict=True))
    taken = tuple(slice(a - b, c - b) for a, b, c in zip(low, offset, high, strict=True))
    target[wanted].copy_(file.get_slice(key)[taken] if size else file.get_tensor(key))
    return math.prod(b - a for a, b in zip(low, high, strict=True))
