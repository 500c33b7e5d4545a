"""Loading tokenizers and models, and giving a teacher the vocabulary of its student."""

import difflib
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from effopd.errors import ConfigurationError, DataError, UnsupportedError

PADDING_LOGIT = -50.0
"""Logit of the rows added to a narrower teacher: probability 2e-22 beside a logit of 0, and a finite log."""

_LOGIT_SCALES = ("logit_scale", "output_multiplier", "lm_head_multiplier", "logits_scaling")
_HUB_NAME = re.compile(r"(?!.*\.(jsonl?|parquet)$)[A-Za-z0-9_][\w.-]*(/[A-Za-z0-9_][\w.-]*)?")
_LOADING_ERRORS = (OSError, ValueError, KeyError, SafetensorError)


def load_tokenizer(
    name_or_path: str | Path,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    pad_token: str | None = None,
    eos_token: str | None = None,
) -> PreTrainedTokenizerBase:
    """Load a tokenizer that pads and truncates on the left, as generation needs.

    Args:
        name_or_path: A directory or a hub name.
        revision: Branch, tag or commit on the hub.
        trust_remote_code: Run Python code that comes with the tokenizer.
        pad_token: A token of the vocabulary to pad with, for tokenizers that name none; replaces theirs.
        eos_token: A token of the vocabulary that ends a completion; replaces theirs.

    Raises:
        ConfigurationError: There is no padding token, or a token given is not in the vocabulary.
        DataError: There is no such tokenizer, or it cannot be read.
    """
    source = _resolve(name_or_path, revision)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            source,
            revision=revision,
            trust_remote_code=trust_remote_code,
            padding_side="left",
            truncation_side="left",
        )
    except _LOADING_ERRORS as error:
        raise _loading_error("tokenizer", name_or_path, source, error) from error
    for role, token in (("pad_token", pad_token), ("eos_token", eos_token)):
        if token is None:
            continue
        if token not in tokenizer.get_vocab():
            raise ConfigurationError(
                f"{role}: {token!r} is not in the vocabulary of {name_or_path}; choose one of its special"
                f" tokens: {', '.join(map(repr, tokenizer.all_special_tokens)) or 'it has none'}."
            )
        setattr(tokenizer, role, token)
    if tokenizer.pad_token is None:
        fallback = tokenizer.eos_token or "<a token that does not occur in text>"
        raise ConfigurationError(
            f"{name_or_path}: the tokenizer has no padding token, which batches of prompts need. Set"
            f' `pad_token: "{fallback}"` in the config.'
        )
    return tokenizer


def load_model(
    name_or_path: str | Path,
    *,
    dtype: str = "float32",
    revision: str | None = None,
    trust_remote_code: bool = False,
    **model_init_kwargs: Any,
) -> PreTrainedModel:
    """Load a causal language model from safetensors files, complete or not at all.

    Args:
        name_or_path: A directory or a hub name.
        dtype: Of the parameters: `float32`, `bfloat16`, `float16`, or `auto` for that of the files. Keep a student at
            `float32`: updates at a learning rate of 1e-6 round to nothing in bfloat16.
        revision: Branch, tag or commit on the hub.
        trust_remote_code: Run Python code that comes with the model.
        **model_init_kwargs: Further arguments of `from_pretrained`.

    Returns:
        The model, in evaluation mode.

    Raises:
        ConfigurationError: The dtype is unknown, or a revision is asked of a directory.
        DataError: There is no such model, it cannot be read, its weights are pickles, or tensors are missing.
    """
    if dtype != "auto" and not isinstance(getattr(torch, dtype, None), torch.dtype):
        raise ConfigurationError(f"dtype: got {dtype!r}, expected float32, bfloat16, float16 or auto.")
    source = find_model(name_or_path, revision)
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            source,
            dtype=dtype,
            revision=revision,
            trust_remote_code=trust_remote_code,
            use_safetensors=True,
            output_loading_info=True,
            **model_init_kwargs,
        )
    except TypeError as error:
        raise ConfigurationError(f"{name_or_path}: {error}. Is model_init_kwargs right?") from error
    except _LOADING_ERRORS as error:
        raise _loading_error("model", name_or_path, source, error) from error
    if missing := sorted(info["missing_keys"]):
        raise DataError(
            f"{name_or_path}: the weights lack {len(missing)} tensors of {type(model).__name__}, such as"
            f" {missing[:5]}, which would be left at random values. Is the checkpoint complete?"
        )
    return model


def find_model(name_or_path: str | Path, revision: str | None = None) -> Path | str:
    """Directory, looked into, or hub name of a model; cheap, so that wrong names are known before anything is loaded.

    Raises:
        ConfigurationError: A revision is given for a directory.
        DataError: There is no such directory, or it holds no model in safetensors.
    """
    source = _resolve(name_or_path, revision)
    if isinstance(source, Path):
        _check_model_directory(source)
    return source


def check_vocabularies(
    student_tokenizer: PreTrainedTokenizerBase,
    teacher_tokenizer: PreTrainedTokenizerBase,
    student_config: PreTrainedConfig,
    teacher_config: PreTrainedConfig,
) -> None:
    """Check that student and teacher mean the same token by every id.

    Embedding matrices padded to different sizes are fine (see `align_vocab_size`), and so are different special tokens:
    the teacher reads and scores the ids that the student sampled.

    Raises:
        ConfigurationError: Some token has different ids, or is in only one of the vocabularies.
    """
    student, teacher = student_tokenizer.get_vocab(), teacher_tokenizer.get_vocab()
    if student == teacher:
        return
    differing = [token for token in {**student, **teacher} if student.get(token) != teacher.get(token)]
    differing.sort(key=lambda token: (student.get(token, len(student)), teacher.get(token, len(teacher))))
    examples = [
        f"  {token!r}: student {student.get(token, 'has none')}, teacher {teacher.get(token, 'has none')}"
        for token in differing[:5]
    ]
    special = [
        f"  {role}: {name} {getattr(tokenizer, name)!r}"
        for role, tokenizer in (("student", student_tokenizer), ("teacher", teacher_tokenizer))
        for name in ("eos_token", "pad_token")
    ]
    sizes = [config.get_text_config().vocab_size for config in (student_config, teacher_config)]
    raise ConfigurationError(
        "\n".join(
            [
                f"The tokenizers of student and teacher give {len(differing)} tokens different ids, so that their"
                " distributions cannot be compared; choose a teacher with the student's tokenizer. For example:",
                *examples,
                f"Tokens: student {len(student)}, teacher {len(teacher)}. Embedding rows: student {sizes[0]}, teacher"
                f" {sizes[1]}. Special tokens, which may differ:",
                *special,
            ]
        )
    )


def align_vocab_size(teacher: PreTrainedModel, student_vocab_size: int, tokenizer_len: int) -> PreTrainedModel:
    """Give a teacher's output head as many rows as its student's has; both share the tokenizer.

    Vocabularies are often padded to different sizes within one model family, which TRL refuses. Surplus padding rows
    of the teacher are dropped. Missing ones are added with the constant logit `PADDING_LOGIT`, which gives them no
    probability mass and leaves the reverse KL finite; the input embedding then gets zero rows for the same ids. A
    tied head becomes a matrix of its own.

    Args:
        teacher: Changed in place.
        student_vocab_size: Rows of the student's head, `config.vocab_size`.
        tokenizer_len: One more than the largest token id.

    Returns:
        The teacher: `config.vocab_size` equal to the student's, in evaluation mode, its parameters frozen.

    Raises:
        ConfigurationError: One of the heads has no row for some of the tokens.
        UnsupportedError: The teacher's head is no plain matrix, or a narrower head's logits are scaled afterwards.
    """
    config = teacher.config.get_text_config()
    vocab_size = config.vocab_size
    if vocab_size != student_vocab_size:
        if min(vocab_size, student_vocab_size) < tokenizer_len:
            raise ConfigurationError(
                f"The tokenizer has {tokenizer_len} tokens, but the student has {student_vocab_size} rows for them and"
                f" the teacher {vocab_size}. Sizes may differ only by padding rows; choose models with a row for each"
                " token."
            )
        _pad_input_embedding(teacher, student_vocab_size)
        teacher.set_output_embeddings(_resized_head(teacher, student_vocab_size))
        for each in (teacher.config, config):
            each.tie_word_embeddings = False
        config.vocab_size = teacher.vocab_size = student_vocab_size
        teacher.all_tied_weights_keys = teacher.get_expanded_tied_weights_keys(all_submodels=True)
    return teacher.requires_grad_(False).eval()


def _resized_head(teacher: PreTrainedModel, vocab_size: int) -> nn.Linear:
    head, config = teacher.get_output_embeddings(), teacher.config.get_text_config()
    if type(head) is not nn.Linear or len(head.weight) != config.vocab_size:
        raise UnsupportedError(
            f"The teacher's output head is a {type(head).__name__} and cannot be resized to {vocab_size} rows; expected"
            f" an unsharded nn.Linear with {config.vocab_size} rows. Use a teacher whose vocab_size is {vocab_size}."
        )
    kept = min(config.vocab_size, vocab_size)
    if kept < vocab_size and any(getattr(config, name, None) not in (None, 1) for name in _LOGIT_SCALES):
        raise UnsupportedError(
            f"The teacher has {kept} rows, the student {vocab_size}: rows cannot be added to a teacher whose logits are"
            f" scaled afterwards. Use a teacher whose vocab_size is at least {vocab_size}."
        )
    bias = head.bias is not None or kept < vocab_size
    like = {"device": head.weight.device, "dtype": head.weight.dtype}
    resized: nn.Linear = nn.utils.skip_init(nn.Linear, head.in_features, vocab_size, bias=bias, **like)
    with torch.no_grad():
        resized.weight.zero_()[:kept] = head.weight[:kept]
        if bias:
            resized.bias.fill_(PADDING_LOGIT)[:kept] = 0 if head.bias is None else head.bias[:kept]
    return resized


def _pad_input_embedding(model: PreTrainedModel, num_rows: int) -> None:
    embedding = model.get_input_embeddings()
    if (num_added := num_rows - len(embedding.weight)) > 0:
        zeros = embedding.weight.new_zeros(num_added, embedding.weight.shape[1])
        embedding.weight = nn.Parameter(torch.cat([embedding.weight.detach(), zeros]))
        embedding.num_embeddings = num_rows


def local_path(name_or_path: str | Path) -> Path | None:
    """Path of a file or directory that exists; None for what can only be the name of something on the hub.

    Raises:
        DataError: It reads as a path (`./runs/7`, `a/b/c`, `~/x`), and nothing is there.
    """
    path = Path(name_or_path).expanduser()
    if path.exists():
        return path
    if isinstance(name_or_path, str) and _HUB_NAME.fullmatch(name_or_path):
        return None
    raise DataError(f"{name_or_path}: no such file or directory{_neighbours(path)}.")


def _neighbours(path: Path) -> str:
    """What is beside a missing path, under the nearest name if there is one."""
    parent = next(parent for parent in path.absolute().parents if parent.is_dir())
    names = sorted(entry.name for entry in parent.iterdir())
    child = path.absolute().relative_to(parent).parts[0]
    close = difflib.get_close_matches(child, names, n=3) or names[:5]
    return f"; {parent} has {', '.join(close)}" if close else f"; {parent} is empty"


def _resolve(name_or_path: str | Path, revision: str | None) -> Path | str:
    """Directory or hub name of a model."""
    path = local_path(name_or_path)
    if path is None:
        return str(name_or_path)
    if revision is not None:
        raise ConfigurationError(f"revision: got {revision!r} for the directory {path}, which has none; leave it out.")
    if not path.is_dir():
        raise DataError(f"{path} is a file; expected a model directory. Pass the one it is in, {path.parent}.")
    return path


def _check_model_directory(directory: Path) -> None:
    names = sorted(entry.name for entry in directory.iterdir())
    found = ", ".join(names[:10]) or "nothing"
    if "config.json" not in names:
        raise DataError(
            f"{directory}: not a model directory; expected config.json and *.safetensors, found {found}. Pass a"
            " directory written by `save_pretrained`."
        )
    if any(name.endswith(".safetensors") for name in names):
        return
    if any(name.endswith((".bin", ".pt", ".pth")) for name in names):
        raise DataError(
            f"{directory}: the weights are pickles, which can run code when they are loaded, and only safetensors are"
            f" read; found {found}. If you trust them, convert them in Python, then copy the tokenizer's files:\n"
            f"    from transformers import AutoModelForCausalLM\n"
            f'    AutoModelForCausalLM.from_pretrained("{directory}", use_safetensors=False, dtype="auto")'
            f'.save_pretrained("{directory}-safetensors")'
        )
    raise DataError(f"{directory}: no weights; expected *.safetensors, found {found}.")


def _loading_error(kind: str, name_or_path: str | Path, source: Path | str, error: Exception) -> DataError:
    remedy = (
        "Check that every file is there and whole."
        if isinstance(source, Path)
        else "There is no such directory here, so it was looked up on the hub. Check the name and, for gated models,"
        f" `hf auth login`; without a network, `hf download {source} --local-dir DIR` elsewhere and pass DIR."
    )
    return DataError(f"{name_or_path}: cannot load the {kind}: {error}\n{remedy}")
