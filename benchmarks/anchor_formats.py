"""Saving and loading the anchor of a model that FSDP2 shards, in three formats: seconds and bytes.

    torchrun --nproc-per-node 2 benchmarks/anchor_formats.py [--megabytes 300]

`parts` is what effopd does (`effopd.extrapolation.parts`), `dcp` is torch.distributed.checkpoint, and `gathered` one
file of the first process. Each is saved three times, and the fastest counts.
"""

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from safetensors.torch import save_file
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from effopd.extrapolation.snapshot import Snapshot

REPEATS = 3


def fastest(action: Callable[[], object]) -> float:
    """Time an action of all processes in seconds."""
    found = []
    for _ in range(REPEATS):
        dist.barrier()
        started = time.perf_counter()
        action()
        dist.barrier()
        found.append(time.perf_counter() - started)
    return round(min(found), 3)


def gather(parameters: dict[str, torch.Tensor], path: Path) -> None:
    """Write whole tensors from the first process."""
    whole = {name: each.full_tensor() if isinstance(each, DTensor) else each for name, each in parameters.items()}
    if dist.get_rank() == 0:
        save_file({name: each.detach().contiguous() for name, each in whole.items()}, path)


def measure(megabytes: float, folder: Path) -> dict[str, dict[str, float | None]]:
    """Save and load a stack of linear layers of 16 MB at most."""
    width = min(2048, max(16, int((megabytes * 1e6 / 16) ** 0.5)))
    layers = max(1, round(megabytes * 1e6 / (4 * width * width)))
    torch.manual_seed(0)
    model = torch.nn.Sequential(*(torch.nn.Linear(width, width, bias=False) for _ in range(layers)))
    for layer in model:
        fully_shard(layer)
    fully_shard(model)
    parameters = dict(model.named_parameters())
    snapshot, rank, number = Snapshot(parameters), dist.get_rank(), dist.get_world_size()
    files = [folder / f"parts-{each}.safetensors" for each in range(number)]
    state = {name: each.detach() for name, each in parameters.items()}
    seconds = {
        "parts": (fastest(lambda: snapshot.save(files[rank])), fastest(lambda: snapshot.load(*files))),
        "dcp": (
            fastest(lambda: dcp.save(state, checkpoint_id=folder / "dcp")),
            fastest(lambda: dcp.load(state, checkpoint_id=folder / "dcp")),
        ),
        "gathered": (fastest(lambda: gather(parameters, folder / "gathered.safetensors")), None),
    }
    sizes = {
        "parts": sum(file.stat().st_size for file in files),
        "dcp": sum(file.stat().st_size for file in (folder / "dcp").rglob("*") if file.is_file()),
        "gathered": (folder / "gathered.safetensors").stat().st_size,
    }
    return {
        name: {
            "save_seconds": round(save, 3),
            "load_seconds": None if load is None else round(load, 3),
            "bytes": sizes[name],
        }
        for name, (save, load) in seconds.items()
    }


def main() -> None:
    """Measure, and print the result from the first process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, nargs="+", default=[0.1, 300])
    options = parser.parse_args()
    dist.init_process_group("gloo")
    for megabytes in options.megabytes:
        name = [tempfile.mkdtemp() if dist.get_rank() == 0 else None]
        dist.broadcast_object_list(name)
        found = measure(megabytes, Path(str(name[0])))
        if dist.get_rank() == 0:
            print(json.dumps({"megabytes": megabytes, "processes": dist.get_world_size(), **found}), flush=True)
            shutil.rmtree(str(name[0]))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
