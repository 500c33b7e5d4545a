"""Models on disk, read tensor by tensor and written shard by shard, so that no whole model has to be in memory.

What training changed, matrix by matrix, over the checkpoints of a run:

    from effopd.checkpoints import find_checkpoints, open_pair

    for step, directory in find_checkpoints("runs/opd"):
        pair = open_pair("Qwen/Qwen3-1.7B-Base", directory)
        for name, (rows, columns) in pair.matrices.items():
            print(step, name, pair.delta(name).norm())

Writing a new model, here the base with half of the update:

    from effopd.checkpoints import open_pair, write_model

    pair = open_pair(base, trained)
    halfway = ((name, pair.base.read(name) + pair.delta(name) / 2) for name in pair.names)
    write_model("halfway", ((name, tensor.bfloat16()) for name, tensor in halfway), like=trained)

`trained` is a model directory, a hub name, or a LoRA adapter in PEFT's layout. A whole model has to hold the tensors of
the base. An adapter has to fit them, and a model made from it is written with `like=base`. A `Pair` holds paths, names
and shapes, and no open file: it can be pickled to worker processes, of which each calls `delta` on its share of
`pair.matrices`. Every read opens one shard and closes it again.

Weights are read as they are stored. A fused projection (`qkv_proj`, `gate_up_proj`) is a single matrix. Experts stacked
in one 3-D tensor are matrices named `...experts.gate_up_proj[0]`, `...[1]` and so on: `Pair.matrices` lists them, and
`delta` and `read` read only the slice of the expert that they are given. `Pair.names` lists whole tensors, which
`write_model` needs. If one model of a pair stores no output head because it is tied, its head is read from its
embedding.
"""

from effopd.checkpoints.model import ModelReader, open_model
from effopd.checkpoints.pair import Pair, open_pair
from effopd.checkpoints.runs import Checkpoint, find_checkpoints
from effopd.checkpoints.writer import write_model

__all__ = ["Checkpoint", "ModelReader", "Pair", "find_checkpoints", "open_model", "open_pair", "write_model"]
