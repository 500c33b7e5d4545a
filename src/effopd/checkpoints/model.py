"""Reading one model tensor by tensor from its safetensors files."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open

from effopd.errors import DataError, UnsupportedError, listing
from effopd.files import read_json
from effopd.models.directory import ADAPTER_WEIGHTS, CONFIG, INDEX, WEIGHTS, check_whole_model
from effopd.models.find import model_directory
from effopd.parameters import locate

_DTYPES = {
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "F32": torch.float32,
    "F64": torch.float64,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_EXPERT = re.compile(r"(.+)\[(\d+)\]")


class TensorInfo(NamedTuple):
    """Place and form of a stored tensor.

    Attributes:
        file: Safetensors file that holds it.
        key: Name of the tensor in that file.
        shape: Shape of the tensor.
        dtype: Stored dtype.
    """

    file: Path
    key: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    def read(self, *index: int | slice) -> torch.Tensor:
        """Read the tensor as it is stored, or only what an index of its first dimensions selects.

        Raises:
            DataError: The file is no longer there, or no longer what it was.
        """
        try:
            with safe_open(self.file, framework="pt") as file:
                tensor: torch.Tensor = file.get_slice(self.key)[index] if index else file.get_tensor(self.key)
        except (SafetensorError, OSError) as error:
            raise DataError(f"{self.file}: cannot read {self.key}: {error}. Has the file changed?") from error
        return tensor


@dataclass(frozen=True)
class ModelReader:
    """A model's tensors by name.

    Each read opens one shard and closes it again. A reader holds no open file, and can be pickled.

    Attributes:
        directory: Directory of the model.
        tensors: Every tensor of the model by name, in the order of its layers.
        tied: Whether, by the config, the embedding is the output head too if no head is stored.
    """

    directory: Path
    tensors: dict[str, TensorInfo]
    tied: bool

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor, by name."""
        return {name: info.shape for name, info in self.tensors.items()}

    @property
    def dtypes(self) -> dict[str, torch.dtype]:
        """Stored dtype of every tensor, by name."""
        return {name: info.dtype for name, info in self.tensors.items()}

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Return the shape of a tensor or of one expert of a 3-D stack, or None if there is no such tensor."""
        tensor, expert = split_expert(name)
        shape = self.tensors[tensor].shape if tensor in self.tensors else None
        if shape is None or expert is None:
            return shape
        return shape[1:] if len(shape) == 3 and expert < shape[0] else None

    def read(self, name: str, *window: slice) -> torch.Tensor:
        """Read a tensor to the CPU, in its stored dtype.

        Args:
            name: Name in `tensors`, followed by an index in brackets for one expert of a 3-D stack.
            window: Slices of the rows, columns and so on to read; all of them by default.

        Raises:
            DataError: There is no such tensor, or its file has changed.
        """
        tensor, expert = split_expert(name)
        if self.shape(name) is None:
            raise DataError(
                f"{self.directory} has no tensor {name!r}; its names begin {listing(list(self.tensors), 3)}."
            )
        return self.tensors[tensor].read(*window) if expert is None else self.tensors[tensor].read(expert, *window)


def open_model(name_or_path: str | Path) -> ModelReader:
    """Read the headers of a model's safetensors files and check that the model is whole.

    Args:
        name_or_path: Directory with `config.json` and `model.safetensors`, or with shards and their index; or a hub
            name, `world:base` or `world:teacher`. Only safetensors, configs and tokenizer files are downloaded.

    Raises:
        ConfigurationError: The embedded world has no such model.
        DataError: There is no such model, it is an adapter, its weights are pickles or the shards of a distributed run,
            or a file or tensor is missing or damaged.
        UnsupportedError: The weights are quantised.
    """
    directory = model_directory(name_or_path)
    check_whole_model(directory)
    config = read_json(directory / CONFIG)
    if config.get("quantization_config"):
        raise UnsupportedError(
            f"{directory}: the weights are quantised, and differences of quantised values are not updates. Dequantise"
            " the model first (`model.dequantize()` in transformers) or pass the unquantised one."
        )
    tensors = scan(directory / WEIGHTS) if (directory / WEIGHTS).exists() else _scan_shards(directory)
    # A config without the key has the default of its class: a whole model that stores no head can only be tied.
    text_config = config.get("text_config") or {}
    tied = bool(config.get("tie_word_embeddings", text_config.get("tie_word_embeddings", True)))
    return ModelReader(directory, {name: tensors[name] for name in sorted(tensors, key=natural_order)}, tied)


def weight_files(directory: Path) -> list[Path]:
    """List the safetensors files that make up a model or adapter, sorted by name.

    Raises:
        DataError: The index cannot be read.
    """
    for single in (WEIGHTS, ADAPTER_WEIGHTS):
        if (directory / single).exists():
            return [directory / single]
    return sorted({directory / shard for shard in _weight_map(directory).values()})


def scan(file: Path) -> dict[str, TensorInfo]:
    """List the tensors of a safetensors file by name, from its header.

    Raises:
        DataError: The file is missing, cut short or no safetensors file.
        UnsupportedError: A tensor has a dtype of quantised weights.
    """
    tensors = {}
    try:
        with safe_open(file, framework="pt") as opened:
            for key in opened.keys():  # noqa: SIM118 (it is no mapping)
                entry = opened.get_slice(key)
                if (dtype := entry.get_dtype()) not in _DTYPES:
                    raise UnsupportedError(
                        f"{file}: {key} is stored as {dtype}; expected bf16, fp16 or fp32. Dequantise the model first."
                    )
                tensors[key] = TensorInfo(file, key, tuple(entry.get_shape()), _DTYPES[dtype])
    except (SafetensorError, OSError) as error:
        raise DataError(
            f"{file}: not a whole safetensors file ({error}). It was cut short, or is only a Git LFS pointer: copy or"
            " download it again."
        ) from error
    return tensors


def untie(reader: ModelReader, shapes: Mapping[str, tuple[int, ...]]) -> ModelReader:
    """Give a tied model the output head that another model stores, read from the tied model's own embedding.

    Args:
        reader: Model that may be tied.
        shapes: Shapes of the other model's tensors, by name.

    Returns:
        A reader with the head as a tensor of its own; `reader` itself if it is not tied, lacks no head, or has none or
        several embeddings of the head's shape.
    """
    heads = {}
    for name in shapes.keys() - reader.tensors.keys():
        if reader.tied and name.endswith("weight") and locate(name).kind == "lm_head":
            same = [info for other, info in reader.tensors.items() if locate(other).kind == "embedding"]
            same = [info for info in same if info.shape == shapes[name]]
            if len(same) == 1:
                heads[name] = same[0]
    return ModelReader(reader.directory, reader.tensors | heads, reader.tied) if heads else reader


def split_expert(name: str) -> tuple[str, int | None]:
    """Split a name such as `x[3]` into the stack `x` and its expert 3; for a whole tensor, the expert is None."""
    match = _EXPERT.fullmatch(name)
    return (match[1], int(match[2])) if match else (name, None)


def natural_order(name: str) -> list[tuple[int, str]]:
    """Make a sort key by which layer 2 comes before layer 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _scan_shards(directory: Path) -> dict[str, TensorInfo]:
    weight_map = _weight_map(directory)
    missing = sorted({shard for shard in weight_map.values() if not (directory / shard).exists()})
    if missing:
        raise DataError(
            f"{directory}: {INDEX} names {len(missing)} shards that are not there: {listing(missing)}. Copy or download"
            " them again."
        )
    tensors: dict[str, TensorInfo] = {}
    for shard in sorted(set(weight_map.values())):
        found = scan(directory / shard)
        if lacking := [name for name, file in weight_map.items() if file == shard and name not in found]:
            raise DataError(
                f"{directory / shard} lacks {len(lacking)} tensors that {INDEX} promises: {listing(lacking)}. Copy or"
                " download both files again; they may be of different models."
            )
        tensors |= {name: info for name, info in found.items() if weight_map.get(name, shard) == shard}
    return tensors


def _weight_map(directory: Path) -> dict[str, str]:
    weight_map = read_json(directory / INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise DataError(f"{directory / INDEX} has no weight_map. Copy or download it again.")
    if wrong := [f"{name}: {shard!r}" for name, shard in weight_map.items() if not isinstance(shard, str)]:
        raise DataError(
            f"{directory / INDEX}: its weight_map has {len(wrong)} values that are no file names: {listing(wrong, 3)}. "
            "Copy or download it again."
        )
    return weight_map
