"""Which kind of snapshot a trainer's model needs."""

from collections.abc import Collection
from typing import Any

import torch

from effopd.extrapolation.adapters import find_pairs
from effopd.extrapolation.lora_snapshot import LoraSnapshot
from effopd.extrapolation.snapshot import Snapshot
from effopd.extrapolation.zero_snapshot import ZeroSnapshot, is_zero
from effopd.parameters import by_clean_name


def snapshot_of(trainer: Any, names: Collection[str], device: str | torch.device | None) -> Snapshot:
    """Make the snapshot of a model's parameters.

    Args:
        trainer: Trainer with a live `model`, with a LoRA adapter or without, and an `optimizer`.
        names: Clean names of the selected parameters. They are found by these, because FSDP2 with activation
            checkpointing may have wrapped layers since they were chosen.
        device: Device of the copies; see `Snapshot`.

    Raises:
        ConfigurationError: Only one of the two factors of a product is selected, or a parameter is not floating.
    """
    live = by_clean_name(trainer.model.named_parameters())
    parameters = {name: live[name] for name in names}
    if any(map(is_zero, parameters.values())):
        return ZeroSnapshot(parameters, trainer.optimizer.optimizer, device)
    pairs = find_pairs(trainer.model, parameters.keys())
    return LoraSnapshot(parameters, pairs, device) if pairs else Snapshot(parameters, device)
