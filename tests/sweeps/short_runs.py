"""Checkpoints on the way from the embedded world's base towards its teacher, and specifications of sweeps."""

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from effopd import evaluation
from effopd.sweeps import SweepSpec, make_spec
from effopd.world import base_dir, teacher_dir

PAPER = ["update_norm", "embedding_replacement", "sliding_window", "top_bottom", "norm_matching"]


def write_checkpoint(directory: Path, share: float, seed: int) -> None:
    """A share of the way from the base to the teacher, with a little noise."""
    shutil.copytree(base_dir(), directory, ignore=shutil.ignore_patterns("*.safetensors", "training_record.json"))
    base, teacher = (load_file(each / "model.safetensors") for each in (base_dir(), teacher_dir()))
    generator = torch.Generator().manual_seed(seed)
    noise = {name: 1e-3 * torch.randn(tensor.shape, generator=generator) for name, tensor in base.items()}
    tensors = {name: base[name] + share * (teacher[name] - base[name]) + noise[name] for name in base}
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})


def write_bfloat16_run(root: Path, size: float = 1e-4) -> None:
    """A base in bf16, and a run whose updates are small beside the weights, stored in bf16 too."""
    generator = torch.Generator().manual_seed(0)
    tensors = {name: t.bfloat16() for name, t in load_file(base_dir() / "model.safetensors").items()}
    for place, scale in (("base", 0.0), ("run/checkpoint-1", 0.1 * size), ("run/checkpoint-10", size)):
        ignore = shutil.ignore_patterns("*.safetensors", "training_record.json")
        shutil.copytree(base_dir(), root / place, ignore=ignore)
        config = json.loads((base_dir() / "config.json").read_text())
        config.pop("torch_dtype", None)
        (root / place / "config.json").write_text(json.dumps(config | {"dtype": "bfloat16"}))
        moved = {
            name: (tensor + scale * torch.randn(tensor.shape, generator=generator)).bfloat16()
            for name, tensor in tensors.items()
        }
        save_file(moved, root / place / "model.safetensors", metadata={"format": "pt"})


def make(root: Path, **changes: Any) -> SweepSpec:
    """A specification of two cells per run, with changes; None takes a field out."""
    content: dict[str, Any] = {
        "base": "world:base",
        "root": str(root),
        "runs": {"OPD": {"seeds": ["opd-0", "opd-1"]}, "GRPO": "grpo-0"},
        "tasks": ["world"],
        "limit": 8,
        "sweeps": [{"preset": "intervention", "name": "halves", "kind": "scale", "vary": "alpha", "values": [0, 0.5]}],
    }
    return make_spec({name: value for name, value in (content | changes).items() if value is not None})


def rows(out: Path) -> pd.DataFrame:
    return pd.read_parquet(out / "results.parquet")


def counted(monkeypatch: pytest.MonkeyPatch, stop_after: int | None = None) -> list[int]:
    """Counts evaluations, and interrupts the one after so many."""
    calls: list[int] = []
    real = evaluation.evaluate

    def evaluate(*arguments: Any, **options: Any) -> Any:
        if len(calls) == stop_after:
            raise KeyboardInterrupt
        calls.append(1)
        return real(*arguments, **options)

    monkeypatch.setattr(evaluation, "evaluate", evaluate)
    return calls
