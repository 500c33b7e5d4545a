"""Reading LoRA adapters in PEFT's layout as updates of a base model."""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from effopd.checkpoints.model import TensorInfo, scan
from effopd.errors import DataError, UnsupportedError, listing
from effopd.files import read_json
from effopd.models.directory import ADAPTER_CONFIG, ADAPTER_WEIGHTS

_PREFIX = "base_model.model."
_FACTOR = re.compile(r"(.+)\.lora_(embedding_)?([AB])(?:\.weight)?")
# Settings with which a weight's update is scaling * B @ A. An adapter that sets any other is a variant of LoRA.
_PLAIN_SETTINGS = re.compile(
    r"peft_type|task_type|auto_mapping|peft_version|base_model_name_or_path|revision|inference_mode|r"
    r"|target_modules|exclude_modules|lora_alpha|lora_dropout|fan_in_fan_out|bias|use_rslora|modules_to_save"
    r"|init_lora_weights|layers_to_transform|layers_pattern|rank_pattern|alpha_pattern|megatron_core"
    r"|loftq_config|eva_config|corda_config|lora_ga_config|qalora_group_size|runtime_config"
)
# Initialisations that leave the base as it is. PiSSA, OLoRA, CorDA, LoftQ and LoRA-GA subtract from it.
_PLAIN_INITS = (True, False, None, "gaussian", "eva", "orthogonal")


class LoraFactors(NamedTuple):
    """The update scaling * B @ A of one matrix, transposed if the base stores the transpose.

    Attributes:
        a: Factor A, [rank, in].
        b: Factor B, [out, rank].
        scaling: Factor alpha / rank, or alpha / sqrt(rank) for rank-stabilised LoRA.
        transposed: Whether the base stores [in, out], by the configuration.
    """

    a: TensorInfo
    b: TensorInfo
    scaling: float
    transposed: bool

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Tell whether the update has the shape of a base matrix or of its transpose."""
        return self.a.shape[0] == self.b.shape[1] and sorted(shape) == sorted(self.shape)

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the update by the configuration: (out, in), or (in, out) if transposed."""
        out, into = self.b.shape[0], self.a.shape[1]
        return (into, out) if self.transposed else (out, into)

    def delta(self, shape: tuple[int, ...], *window: slice) -> torch.Tensor:
        """Compute the update in float64.

        PEFT corrects `fan_in_fan_out` for each module and saves the value of the last one. Whether to transpose is
        therefore told by `shape`; only for a square matrix, by the configuration.

        Args:
            shape: Rows and columns of the base's matrix.
            window: Slices of the rows and columns to compute; all of them by default.
        """
        left, right = self.b.read().double(), self.a.read().double()
        is_transpose = self.transposed if shape[0] == shape[1] else (len(left), right.shape[1]) != shape
        if is_transpose:
            left, right = right.mT, left.mT
        rows, columns = (*window, slice(None), slice(None))[:2]
        return (left[rows] @ right[:, columns]).mul_(self.scaling)


@dataclass(frozen=True)
class LoraAdapter:
    """The changes that an adapter makes to its base.

    Attributes:
        factors: Low-rank updates, by the name of the base's tensor.
        replacements: Whole tensors (`modules_to_save`, biases) that take the place of the base's, by name.
    """

    factors: dict[str, LoraFactors]
    replacements: dict[str, TensorInfo]


def open_adapter(directory: Path) -> LoraAdapter:
    """Read an adapter's configuration and the header of its weights.

    Raises:
        DataError: A file is damaged, or a factor is missing or is no matrix.
        UnsupportedError: The update is not scaling * B @ A.
    """
    config = read_json(directory / ADAPTER_CONFIG)
    _check_plain(directory, config)
    stored: dict[str, dict[str, TensorInfo]] = {}
    embeddings, replacements, unknown = set(), {}, []
    for key, info in scan(directory / ADAPTER_WEIGHTS).items():
        name = key.removeprefix(_PREFIX)
        if match := _FACTOR.fullmatch(name):
            stored.setdefault(match[1], {})[match[3]] = info
            embeddings |= {match[1]} if match[2] else set()
        elif name == key or "lora_" in name:
            unknown.append(key)
        else:
            replacements[name.replace(".base_layer.", ".").replace(".modules_to_save.", ".")] = info
    if unknown:
        raise UnsupportedError(
            f"{directory}: {len(unknown)} tensors do not belong to a plain LoRA: {listing(unknown)}. Merge the adapter"
            " with PEFT (`merge_and_unload`, `save_pretrained`) and pass the merged model."
        )
    bad = [m for m, pair in stored.items() if len(pair) < 2 or any(len(info.shape) != 2 for info in pair.values())]
    if bad:
        raise DataError(
            f"{directory}: {len(bad)} modules do not have both factors A and B as matrices: {listing(bad)}. An adapter"
            " saved from unmerged FSDP or ZeRO-3 shards is incomplete: gather the parameters and save it again."
        )
    factors = {
        f"{module}.weight": LoraFactors(
            pair["A"],
            pair["B"],
            _scaling(config, module, rank=pair["A"].shape[0]),
            module in embeddings or bool(config.get("fan_in_fan_out")),
        )
        for module, pair in stored.items()
    }
    return LoraAdapter(factors, replacements)


def _scaling(config: dict[str, Any], module: str, rank: int) -> float:
    """Compute the scaling as PEFT does. The rank is that of A, which has the shape that `rank_pattern` gave it."""
    patterns = config.get("alpha_pattern") or {}
    matched = next((pattern for pattern in patterns if re.match(rf"(.*\.)?({pattern})$", module)), None)
    alpha = config.get("lora_alpha") if matched is None else patterns[matched]
    if not isinstance(alpha, int | float) or rank < 1:
        raise DataError(
            f"{module}: got lora_alpha {alpha!r} and rank {rank}; expected numbers. Check {ADAPTER_CONFIG}."
        )
    return alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank


def _check_plain(directory: Path, config: dict[str, Any]) -> None:
    variants = [f"{name}={value!r}" for name, value in config.items() if value and not _PLAIN_SETTINGS.fullmatch(name)]
    if str(config.get("peft_type")).upper() != "LORA":
        variants.insert(0, f"peft_type={config.get('peft_type')!r}")
    if config.get("init_lora_weights", True) not in _PLAIN_INITS:
        variants.append(f"init_lora_weights={config['init_lora_weights']!r}, which changes the base")
    if variants:
        raise UnsupportedError(
            f"{directory}: only plain LoRA, whose update is scaling * B @ A, is read; {ADAPTER_CONFIG} has"
            f" {listing(variants)}. Merge the adapter with PEFT (`merge_and_unload`, `save_pretrained`) and pass the"
            " merged model."
        )
