"""Tiny base models and what training might have made of them, on disk."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM


def load_tensors(directory: Path) -> dict[str, torch.Tensor]:
    """All tensors of a directory, by safetensors itself."""
    return {name: tensor for file in directory.glob("*.safetensors") for name, tensor in load_file(file).items()}


def write_trained(base: Path, out: Path, seed: int = 1, **save: Any) -> Path:
    """The base with noise added to every weight, saved by transformers."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype="auto")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
    model.save_pretrained(out, **save)
    return out


def write_raw(out: Path, tensors: dict[str, torch.Tensor], **config: Any) -> Path:
    """A model directory with just these tensors."""
    out.mkdir(parents=True)
    save_file(tensors, out / "model.safetensors")
    (out / "config.json").write_text(json.dumps(config))
    return out


def copy(source: Path, out: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(source, out))
