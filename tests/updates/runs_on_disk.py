"""A base and the checkpoints of a run as tiny model directories, and what they hold."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

SHAPES = {
    "model.embed_tokens.weight": (30, 16),
    "model.layers.0.input_layernorm.weight": (16,),
    "model.layers.0.self_attn.q_proj.weight": (16, 16),
    "model.layers.0.self_attn.q_proj.bias": (16,),
    "model.layers.0.mlp.up_proj.weight": (40, 16),
    "model.layers.0.mlp.down_proj.weight": (16, 40),
    "model.layers.1.mlp.experts.down_proj": (3, 16, 24),
    "lm_head.weight": (30, 16),
}
MATRICES = [
    "model.embed_tokens.weight",
    "model.layers.0.self_attn.q_proj.weight",
    "model.layers.0.mlp.up_proj.weight",
    "model.layers.0.mlp.down_proj.weight",
    *(f"model.layers.1.mlp.experts.down_proj[{expert}]" for expert in range(3)),
    "lm_head.weight",
]

Tensors = dict[str, torch.Tensor]


def random_tensors(seed: int, dtype: torch.dtype = torch.float32) -> Tensors:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in SHAPES.items()}


def write(directory: Path, tensors: Tensors) -> Path:
    directory.mkdir(parents=True)
    save_file(tensors, directory / "model.safetensors")
    (directory / "config.json").write_text(json.dumps({"model_type": "llama"}))
    return directory


def write_run(directory: Path, num_checkpoints: int) -> tuple[Path, Path, list[Tensors]]:
    """Base, run directory, and the tensors of the base and of each checkpoint, which wander off at random."""
    states = [random_tensors(0)]
    for index in range(num_checkpoints):
        step = random_tensors(index + 1)
        states.append({name: tensor + 0.1 * step[name] for name, tensor in states[-1].items()})
        write(directory / "run" / f"checkpoint-{10 * (index + 1)}", states[-1])
    return write(directory / "base", states[0]), directory / "run", states


def matrix(tensors: Tensors, name: str) -> torch.Tensor:
    stack, bracket, expert = name.partition("[")
    return (tensors[stack][int(expert[:-1])] if bracket else tensors[name]).double()
