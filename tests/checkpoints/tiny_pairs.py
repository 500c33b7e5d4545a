"""Tiny base models and what training might have made of them, on disk."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, MixtralConfig, PreTrainedConfig


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


def write_tiny(config: PreTrainedConfig, out: Path) -> Path:
    """A bf16 model of any kind with random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(out)
    return out


def tiny_mixtral(vocab_size: int = 32) -> MixtralConfig:
    """One layer of three experts, which are fused in memory, and stored one by one and under other names."""
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    experts = {"num_key_value_heads": 1, "num_local_experts": 3, "num_experts_per_tok": 2}
    return MixtralConfig(vocab_size=vocab_size, bos_token_id=None, eos_token_id=None, **sizes, **experts)


def write_raw(out: Path, tensors: dict[str, torch.Tensor], **config: Any) -> Path:
    """A model directory with just these tensors."""
    out.mkdir(parents=True)
    save_file(tensors, out / "model.safetensors")
    (out / "config.json").write_text(json.dumps(config))
    return out


def copy(source: Path, out: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(source, out))
