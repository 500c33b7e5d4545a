"""Directories of models and adapters: found here or on the hub, and looked into before anything is read."""

import re
from pathlib import Path
from typing import Literal

from huggingface_hub import snapshot_download

from effopd.errors import DataError

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
ADAPTER_WEIGHTS, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"
MODEL_FILES = (
    "config.json",
    "generation_config.json",
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
"""What makes up a model directory besides its weights. Code is copied, never run."""

_PICKLE = re.compile(r"(pytorch_model|adapter_model|model|consolidated).*\.(bin|pt|pth)$")
_HUB_NAME = re.compile(r"[A-Za-z0-9_][\w.-]*(/[A-Za-z0-9_][\w.-]*)?")


def resolve(name_or_path: str | Path) -> Path:
    """Directory of a model: one that exists, or the newest snapshot of a hub name, downloaded where it is not cached.

    `world:base` and `world:teacher` are the models of the embedded world.

    Raises:
        DataError: There is no such directory, and it cannot be downloaded.
    """
    if str(name_or_path).startswith("world:"):
        from effopd.world import model_path

        return Path(model_path(str(name_or_path)))
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise DataError(f"{path} is a file; expected a model directory. Pass the one it is in, {path.parent}.")
    if not (isinstance(name_or_path, str) and _HUB_NAME.fullmatch(name_or_path)):
        raise DataError(f"{name_or_path}: no such directory. Pass a model directory or a hub name.")
    try:
        return Path(
            snapshot_download(
                name_or_path,
                allow_patterns=[WEIGHTS, INDEX, "model-*.safetensors", "adapter_*", *MODEL_FILES],
                ignore_patterns=["*/*", "*.bin", "*.pt", "*.pth"],
            )
        )
    except Exception as error:  # the hub's client raises its own, its HTTP library's and the system's
        raise DataError(
            f"{name_or_path}: there is no such directory here, and it cannot be downloaded from the hub: {error}\n"
            "Check the name and, for gated models, `hf auth login`; without a network, `hf download"
            f" {name_or_path} --local-dir DIR` elsewhere and pass DIR."
        ) from error


def weights_kind(directory: Path) -> Literal["model", "adapter"]:
    """Whether a directory holds a whole model or an adapter, by the names of its files.

    Raises:
        DataError: It holds neither, both, or weights that are not safetensors.
    """
    names = sorted(entry.name for entry in directory.iterdir()) if directory.is_dir() else []
    found = ", ".join(names[:10]) or "nothing"
    has_model = "config.json" in names and (WEIGHTS in names or INDEX in names)
    has_adapter = ADAPTER_CONFIG in names and ADAPTER_WEIGHTS in names
    if has_model and has_adapter:
        raise DataError(f"{directory} holds both a model and an adapter. Move one of them to a directory of its own.")
    if has_model or has_adapter:
        return "model" if has_model else "adapter"
    if any(re.match(r"pytorch_model_fsdp|global_step\d", name) for name in names):
        raise DataError(
            f"{directory}: the weights are shards of a distributed run; found {found}. Merge them first: `accelerate"
            " merge-weights` for FSDP, `python zero_to_fp32.py DIR OUT --safe_serialization` for DeepSpeed."
        )
    if any(_PICKLE.match(name) for name in names) and WEIGHTS not in names:
        auto, arguments = "AutoModelForCausalLM", ', use_safetensors=False, dtype="auto"'
        if ADAPTER_CONFIG in names:
            auto, arguments = "AutoPeftModelForCausalLM", ""
        raise DataError(
            f"{directory}: the weights are pickles, which can run code when they are loaded, and only safetensors are"
            f" read; found {found}. If you trust them, convert them in Python, then copy the tokenizer's files:\n"
            f"    from {'peft' if arguments == '' else 'transformers'} import {auto}\n"
            f'    {auto}.from_pretrained("{directory}"{arguments}).save_pretrained("{directory}-safetensors")'
        )
    raise DataError(
        f"{directory}: not a model directory; expected config.json with {WEIGHTS} or {INDEX}, or {ADAPTER_CONFIG} with"
        f" {ADAPTER_WEIGHTS}; found {found}. Pass a directory written by `save_pretrained`; one that an interrupted"
        " save left behind has to be removed."
    )


def listing(items: list[str], limit: int = 10) -> str:
    """The first of many names, and how many more there are."""
    more = f" and {len(items) - limit} more" if len(items) > limit else ""
    return ", ".join(items[:limit]) + more
