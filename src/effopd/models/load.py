"""A tokenizer or a whole model in memory, from safetensors files."""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from effopd.errors import ConfigurationError, DataError, listing
from effopd.models.find import find_model, find_place, hub_remedy

_TOKENIZER_FILES = ("tokenizer*", "vocab*", "*.model", "*.tiktoken")


def load_tokenizer(
    name_or_path: str | Path,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    pad_token: str | None = None,
    eos_token: str | None = None,
    require_pad_token: bool = True,
) -> PreTrainedTokenizerBase:
    """Load a tokenizer that pads and truncates on the left, as generation needs.

    Args:
        name_or_path: Directory, hub name, or `world:base`, `world:facts/teacher` and the like.
        revision: Branch, tag or commit on the hub.
        trust_remote_code: Whether Python code that comes with the tokenizer may run.
        pad_token: Token of the vocabulary to pad with; replaces the tokenizer's own.
        eos_token: Token of the vocabulary that ends a completion; replaces the tokenizer's own.
        require_pad_token: Whether a tokenizer without a padding token is refused.

    Raises:
        ConfigurationError: There is no padding token, a given token is not in the vocabulary, or a revision is given
            for a directory.
        DataError: There is no such tokenizer, or it cannot be read.
    """
    place = find_place(name_or_path, revision)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            place,
            revision=revision,
            trust_remote_code=trust_remote_code,
            padding_side="left",
            truncation_side="left",
        )
    except Exception as error:  # for some damaged files, tokenizers raises nothing narrower
        raise _loading_error("tokenizer", name_or_path, place, error) from error
    for role, token in (("pad_token", pad_token), ("eos_token", eos_token)):
        if token is None:
            continue
        if token not in tokenizer.get_vocab():
            raise ConfigurationError(
                f"{role}: {token!r} is not in the vocabulary of {name_or_path}; choose one of its special"
                f" tokens: {', '.join(map(repr, tokenizer.all_special_tokens)) or 'it has none'}."
            )
        setattr(tokenizer, role, token)
    if require_pad_token and tokenizer.pad_token is None:
        fallback = tokenizer.eos_token or "<a token that does not occur in text>"
        raise ConfigurationError(
            f"{name_or_path}: the tokenizer has no padding token, which batches of prompts need. Name"
            f" one: --pad-token {fallback!r}, or pad_token in the file of `effopd train`."
        )
    return tokenizer


def load_config(place: str | Path) -> PreTrainedConfig:
    """Load the configuration of a model.

    Args:
        place: Directory, or hub name.

    Raises:
        DataError: It cannot be read, or is of a model that transformers does not know.
    """
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(place)
    except (OSError, ValueError, KeyError) as error:
        raise _loading_error("configuration", place, place, error) from error
    return config


def load_model(
    name_or_path: str | Path,
    *,
    dtype: str = "float32",
    revision: str | None = None,
    trust_remote_code: bool = False,
    **model_init_kwargs: Any,
) -> PreTrainedModel:
    """Load a causal language model from safetensors files; one with missing tensors is refused.

    Args:
        name_or_path: Directory, hub name, or `world:base`, `world:facts/teacher` and the like.
        dtype: Dtype of the parameters: `float32`, `bfloat16`, `float16`, or `auto` for that of the files. Keep a
            student at `float32`: updates at a learning rate of 1e-6 round to nothing in bfloat16.
        revision: Branch, tag or commit on the hub.
        trust_remote_code: Whether Python code that comes with the model may run.
        **model_init_kwargs: Further arguments of `from_pretrained`.

    Returns:
        The model, in evaluation mode.

    Raises:
        ConfigurationError: The dtype or another argument is unknown, or a revision is given for a directory.
        DataError: There is no such model, it cannot be read, it is an adapter, its weights are pickles or the shards
            of a distributed run, or tensors are missing or of other shapes.
    """
    if dtype != "auto" and not isinstance(getattr(torch, dtype, None), torch.dtype):
        raise ConfigurationError(f"dtype: got {dtype!r}, expected float32, bfloat16, float16 or auto.")
    place = find_model(name_or_path, revision)
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            place,
            dtype=dtype,
            revision=revision,
            trust_remote_code=trust_remote_code,
            use_safetensors=True,
            output_loading_info=True,
            **{"ignore_mismatched_sizes": True} | model_init_kwargs,  # they are refused below, by name
        )
    except TypeError as error:
        raise ConfigurationError(f"{name_or_path}: {error}. Is model_init_kwargs right?") from error
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise _loading_error("model", name_or_path, place, error) from error
    if others := sorted(info["mismatched_keys"]):
        name, stored, expected = others[0]
        raise DataError(
            f"{name_or_path}: {len(others)} tensors have other shapes than config.json asks for, such as {name}: got"
            f" {tuple(stored)}, expected {tuple(expected)}. Is the config that of these weights?"
        )
    if missing := sorted(info["missing_keys"]):
        raise DataError(
            f"{name_or_path}: the weights lack {len(missing)} tensors of {type(model).__name__}, such as"
            f" {missing[:5]}, which would be left at random values. Is the checkpoint complete?"
        )
    return model


def _loading_error(kind: str, name_or_path: str | Path, place: Path | str, error: Exception) -> DataError:
    is_tokenizer_there = isinstance(place, str) or any(any(place.glob(pattern)) for pattern in _TOKENIZER_FILES)
    if kind == "tokenizer" and isinstance(place, Path) and not is_tokenizer_there:
        found = listing(sorted(entry.name for entry in place.iterdir())) or "nothing"
        return DataError(
            f"{name_or_path}: there is no tokenizer; expected tokenizer.json or vocabulary files, found {found}. Pass "
            "a directory to which both a model and its tokenizer were saved, by `save_pretrained`."
        )
    remedy = "Check that every file is there and whole." if isinstance(place, Path) else hub_remedy(place)
    return DataError(f"{name_or_path}: cannot load the {kind}: {error}\n{remedy}")
