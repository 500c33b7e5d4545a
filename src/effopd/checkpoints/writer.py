"""Writing a new model directory shard by shard, which is put in place only when it is complete."""

import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from effopd.checkpoints.model import ModelReader, open_model
from effopd.errors import DataError, listing
from effopd.files import read_json, write_json
from effopd.models.directory import CONFIG, INDEX, MODEL_FILES, WEIGHTS
from effopd.run_directory import written_whole


def write_model(
    out: str | Path,
    tensors: Iterable[tuple[str, torch.Tensor]],
    like: str | Path,
    max_shard_bytes: int = 5 * 10**9,
) -> Path:
    """Write a model directory that transformers loads, holding one shard in memory at a time.

    Everything is written to a hidden directory beside `out`, which is renamed when it is complete and removed if
    anything fails. If the process is killed, the next call with this `out` removes it.

    Args:
        out: Directory to write; it may exist if it is empty.
        tensors: Names and tensors: each tensor of `like` once, with its shape, in any order. Each is stored in the
            dtype that it has. If all floating-point tensors share a dtype, it becomes the `dtype` of the config, in
            which transformers loads a model: float32 weights would otherwise be rounded to the dtype of `like`.
        like: Directory or hub name of the model whose config and tokenizer files are copied.
        max_shard_bytes: Size in bytes above which a new shard is begun; a larger tensor is a shard of its own.

    Returns:
        The path of the written directory.

    Raises:
        DataError: `out` cannot be taken, `like` is no model, the tensors are not those of `like`, or another process is
            writing `out`.
        OSError: The directory cannot be written, for instance because the disk is full.
    """
    out = free_directory(out)
    with written_whole(out) as partial:
        write_files(partial, tensors, like, max_shard_bytes)
    return out


def write_files(
    directory: Path, tensors: Iterable[tuple[str, torch.Tensor]], like: str | Path, max_shard_bytes: int
) -> None:
    """Write the files of a model into an empty directory; see `write_model`."""
    reader = open_model(like)
    dtypes = _write_tensors(directory, tensors, reader, max_shard_bytes)
    _copy_files(reader.directory, directory, dtypes)


def save_tensors(tensors: dict[str, torch.Tensor], file: Path) -> None:
    """Write a safetensors file; an interruption may leave half of it.

    Args:
        tensors: Contiguous tensors on the CPU, by name.
        file: File to write.

    Raises:
        OSError: The file cannot be written. The error has the system's number, by which callers recognise a full disk;
            the error of safetensors has it only in its text.
    """
    try:
        save_file(tensors, file, metadata={"format": "pt"})
    except SafetensorError as error:
        code = re.search(r"\(os error (\d+)\)", str(error))
        if code is None:
            raise OSError(f"{file} cannot be written: {error}") from error
        raise OSError(int(code[1]), os.strerror(int(code[1])), str(file)) from error


def _write_tensors(
    directory: Path, tensors: Iterable[tuple[str, torch.Tensor]], reader: ModelReader, max_shard_bytes: int
) -> set[torch.dtype]:
    """Write the shards and their index, and return the floating-point dtypes among the tensors."""
    shards: list[list[str]] = []
    shard: dict[str, torch.Tensor] = {}
    written: set[str] = set()
    dtypes: set[torch.dtype] = set()
    size = total_size = 0

    def flush() -> None:
        save_tensors(shard, directory / f"{len(shards)}.safetensors")
        shards.append(list(shard))
        shard.clear()

    for name, tensor in tensors:
        _check_tensor(name, tensor, reader, written)
        if shard and size + tensor.nbytes > max_shard_bytes:
            flush()
            size = 0
        # A copy, since safetensors refuses views, and a view would keep the whole file that it is of in memory.
        shard[name] = tensor.detach().to("cpu").clone(memory_format=torch.contiguous_format)
        written.add(name)
        size, total_size = size + tensor.nbytes, total_size + tensor.nbytes
        dtypes |= {tensor.dtype} if tensor.is_floating_point() else set()
    if missing := [name for name in reader.tensors if name not in written]:
        raise DataError(
            f"{len(missing)} of the {len(reader.tensors)} tensors of {reader.directory} were not given:"
            f" {listing(missing)}. Give every tensor, also those that do not change."
        )
    flush()
    _name_shards(directory, shards, total_size)
    return dtypes


def _name_shards(directory: Path, shards: list[list[str]], total_size: int) -> None:
    if len(shards) == 1:
        (directory / "0.safetensors").rename(directory / WEIGHTS)
        return
    weight_map: dict[str, str] = {}
    for number, names in enumerate(shards):
        file = f"model-{number + 1:05d}-of-{len(shards):05d}.safetensors"
        (directory / f"{number}.safetensors").rename(directory / file)
        weight_map |= dict.fromkeys(names, file)
    write_json(directory / INDEX, {"metadata": {"total_size": total_size}, "weight_map": weight_map})


def free_directory(path: str | Path) -> Path:
    """Resolve the path of a directory that is to be put there by renaming another one.

    Raises:
        DataError: The path is a file, a directory that is not empty, or one where a disk is mounted.
    """
    resolved = Path(path).resolve()
    found = "exists and is not empty" if resolved.is_dir() and any(resolved.iterdir()) else None
    found = "is a file" if resolved.exists() and not resolved.is_dir() else found
    found = "is where a disk is mounted, which cannot be replaced" if resolved.is_mount() else found
    if found:
        raise DataError(f"{path} {found}. Choose another directory, or one inside it.")
    return resolved


def _check_tensor(name: str, tensor: torch.Tensor, reader: ModelReader, written: set[str]) -> None:
    if name in written:
        raise DataError(f"{name} was given twice. Give every tensor once.")
    if name not in reader.tensors:
        raise DataError(
            f"{name} is no tensor of {reader.directory}, whose names begin {listing(list(reader.tensors), 3)}. Pass as"
            " `like` the model that has it, for instance the one whose output head is not tied."
        )
    if tuple(tensor.shape) != reader.tensors[name].shape:
        raise DataError(
            f"{name} has the shape {tuple(tensor.shape)}; expected {reader.tensors[name].shape}, that in"
            f" {reader.directory}."
        )


def _copy_files(source: Path, directory: Path, dtypes: set[torch.dtype]) -> None:
    for file in sorted({file for pattern in MODEL_FILES for file in source.glob(pattern) if file.is_file()}):
        shutil.copyfile(file, directory / file.name)
    if len(dtypes) == 1:
        config, dtype = read_json(source / CONFIG), str(dtypes.pop()).removeprefix("torch.")
        for part in filter(_has_dtype, config.values()):  # of a model with several modalities, which may load alone
            part.pop("torch_dtype", None)
            part["dtype"] = dtype
        config.pop("torch_dtype", None)
        write_json(directory / CONFIG, config | {"dtype": dtype})


def _has_dtype(part: Any) -> bool:
    return isinstance(part, dict) and bool(part.get("dtype") or part.get("torch_dtype"))
