"""What a model directory holds, told by the names of its files: a whole model, an adapter, or something refused."""

import re
from pathlib import Path
from typing import Literal

from effopd.errors import DataError, listing
from effopd.files import files_digest

GENERATION_CONFIG = "generation_config.json"
CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
MODEL_FILES = (
    CONFIG,
    GENERATION_CONFIG,
    "*processor_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab*",
    "merges.txt",
    "chat_template*",
    "*.model",
    "*.tiktoken",
    "*.py",
)
"""Patterns of the files that belong to a model besides its weights. Python code among them is copied, never run."""

_PICKLE = re.compile(r"(pytorch_model|adapter_model|model|consolidated).*\.(bin|pt|pth)$")
_DISTRIBUTED_SHARD = re.compile(r"pytorch_model_fsdp|global_step\d")


def weights_kind(directory: Path) -> Literal["model", "adapter"]:
    """Tell whether a directory holds a whole model or an adapter, in safetensors files of the usual names.

    Raises:
        DataError: It holds neither or both, or its weights are pickles or the shards of a distributed run.
    """
    names = _names(directory)
    has_model = CONFIG in names and (WEIGHTS in names or INDEX in names)
    has_adapter = ADAPTER_CONFIG in names and ADAPTER_WEIGHTS in names
    if has_model and has_adapter:
        raise DataError(f"{directory} holds both a model and an adapter. Move one of them to a directory of its own.")
    if has_model:
        return "model"
    if has_adapter:
        return "adapter"
    raise _refusal(directory, names)


def check_whole_model(directory: Path) -> None:
    """Check that a directory holds a whole model, whose weights can be read tensor by tensor.

    Raises:
        DataError: It holds an adapter or no model, or its weights are not safetensors (see `weights_kind`).
    """
    if weights_kind(directory) == "adapter":
        raise DataError(
            f"{directory} is an adapter; expected a whole model. Merge it into its base with PEFT (`merge_and_unload`,"
            " `save_pretrained`) and pass the merged model, or compare it with its base by `open_pair(base, adapter)`."
        )


def check_loadable(directory: Path) -> None:
    """Check that a directory holds a whole model for transformers to load.

    Transformers can be told of weights that have another name (`variant="fp16"`), so any safetensors file will do here.

    Raises:
        DataError: As in `check_whole_model`.
    """
    names = _names(directory)
    has_weights = any(name.endswith(".safetensors") for name in names)
    if not (CONFIG in names and has_weights and ADAPTER_CONFIG not in names):
        check_whole_model(directory)


def weights_digest(place: Path | str) -> str | None:
    """Compute a digest by which another model in the same directory is noticed; None for a hub name."""
    return None if isinstance(place, str) else files_digest(place.glob("*.safetensors"))


def _names(directory: Path) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir()) if directory.is_dir() else []


def _refusal(directory: Path, names: list[str]) -> DataError:
    """Say what a directory holds in place of a model or adapter, and what to do about it."""
    found = listing(names) or "nothing"
    if any(_DISTRIBUTED_SHARD.match(name) for name in names):
        return DataError(
            f"{directory}: the weights are shards of a distributed run; found {found}. Merge them first: `accelerate"
            " merge-weights` for FSDP, `python zero_to_fp32.py DIR OUT --safe_serialization` for DeepSpeed."
        )
    if any(_PICKLE.match(name) for name in names) and WEIGHTS not in names:
        library, auto, arguments = "transformers", "AutoModelForCausalLM", ', use_safetensors=False, dtype="auto"'
        if ADAPTER_CONFIG in names:
            library, auto, arguments = "peft", "AutoPeftModelForCausalLM", ""
        return DataError(
            f"{directory}: the weights are pickles, which can run code when they are loaded, and only safetensors are"
            f" read; found {found}. If you trust them, convert them in Python, then copy the tokenizer's files:\n"
            f"    from {library} import {auto}\n"
            f'    {auto}.from_pretrained("{directory}"{arguments}).save_pretrained("{directory}-safetensors")'
        )
    return DataError(
        f"{directory}: not a model directory; expected {CONFIG} with {WEIGHTS} or {INDEX}, or {ADAPTER_CONFIG} with"
        f" {ADAPTER_WEIGHTS}; found {found}. Pass a directory written by `save_pretrained`, and remove one that an"
        " interrupted save left behind."
    )
