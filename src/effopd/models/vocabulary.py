"""Whether a teacher's vocabulary fits its student's, and how vocabularies padded to different sizes are aligned.

Models of one family often share a tokenizer and pad their vocabularies to different sizes: beside a row for each token,
the output head then has rows that belong to no token. Surplus rows of the teacher are dropped. Rows that it lacks get
the mean of its logits plus `PADDING_LOGIT`, which gives them next to no probability and leaves the reverse KL finite.
The mean is followed because some models, such as GPT-2, have logits far below 0; it is that of the head's mean row.
"""

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from effopd.errors import ConfigurationError, UnsupportedError

PADDING_LOGIT = -50.0
"""What is added to the mean logit for rows that a narrower teacher lacks: a probability of at most 2e-22."""

_LOGIT_SCALES = ("logit_scale", "output_multiplier", "lm_head_multiplier", "logits_scaling")


def check_vocabularies(
    student_tokenizer: PreTrainedTokenizerBase,
    teacher_tokenizer: PreTrainedTokenizerBase,
    student_config: PreTrainedConfig,
    teacher_config: PreTrainedConfig,
) -> None:
    """Check that student and teacher mean the same token by every id, and have a row for each.

    Vocabularies padded to different sizes are fine, and so are different special tokens: the teacher reads and scores
    the ids that the student sampled.

    Raises:
        ConfigurationError: Some token has different ids or is in only one of the vocabularies, or one of the models
            lacks rows (see `check_vocabulary_sizes`).
    """
    student, teacher = student_tokenizer.get_vocab(), teacher_tokenizer.get_vocab()
    if student == teacher:
        check_vocabulary_sizes(student_config, teacher_config, student_tokenizer)
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
    sizes = [vocabulary_size(config) for config in (student_config, teacher_config)]
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


def check_vocabulary_sizes(
    student_config: PreTrainedConfig, teacher_config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Check that student and teacher, where their numbers of rows differ, both have a row for every token.

    Raises:
        ConfigurationError: One of them lacks rows.
    """
    student_rows, teacher_rows = vocabulary_size(student_config), vocabulary_size(teacher_config)
    if student_rows != teacher_rows:
        _check_rows(student_rows, teacher_rows, num_token_ids=1 + max(tokenizer.get_vocab().values()))


def vocabulary_size(config: PreTrainedConfig) -> int:
    """Number of rows of a model's output head, those of padding included."""
    size: int = config.get_text_config().vocab_size
    return size


def align_logits(logits: Tensor, vocab_size: int) -> Tensor:
    """Give a teacher's logits the width of its student's.

    Args:
        logits: Logits of any leading shape, [..., V].
        vocab_size: Number of rows of the student's head.

    Returns:
        Logits [..., vocab_size].
    """
    logits = logits[..., :vocab_size]
    if (num_added := vocab_size - logits.shape[-1]) == 0:
        return logits
    added = logits.mean(-1, keepdim=True) + PADDING_LOGIT
    return torch.cat([logits, added.expand(*logits.shape[:-1], num_added)], dim=-1)


def align_vocab_size(teacher: PreTrainedModel, student_vocab_size: int, num_token_ids: int) -> PreTrainedModel:
    """Give a teacher's output head as many rows as its student's has, which TRL asks for; both share the tokenizer.

    The teacher's logits become those of `align_logits`. Where rows are added, the input embedding gets rows of zeros
    for the same ids. A tied head becomes a matrix of its own.

    Args:
        teacher: The teacher; it is changed in place.
        student_vocab_size: Number of rows of the student's head, `config.vocab_size`.
        num_token_ids: One more than the largest token id.

    Returns:
        The teacher: `config.vocab_size` equal to the student's, in evaluation mode, its parameters frozen.

    Raises:
        ConfigurationError: One of the heads has no row for some of the tokens.
        UnsupportedError: The teacher's head is no plain matrix, or its logits are scaled afterwards and it is narrower.
    """
    config = teacher.config.get_text_config()
    if config.vocab_size != student_vocab_size:
        _check_rows(student_vocab_size, config.vocab_size, num_token_ids)
        _pad_input_embedding(teacher, student_vocab_size)
        teacher.set_output_embeddings(_resized_head(teacher, student_vocab_size))
        for each in (teacher.config, config):
            each.tie_word_embeddings = False
        config.vocab_size = teacher.vocab_size = student_vocab_size
        teacher.all_tied_weights_keys = teacher.get_expanded_tied_weights_keys(all_submodels=True)
    return teacher.requires_grad_(False).eval()


def _check_rows(student_rows: int, teacher_rows: int, num_token_ids: int) -> None:
    if min(student_rows, teacher_rows) < num_token_ids:
        raise ConfigurationError(
            f"The tokenizer has {num_token_ids} tokens, but the student has {student_rows} rows for them and the"
            f" teacher {teacher_rows}. Sizes may differ only by padding rows; choose models with a row for each token."
        )


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
        resized.weight[:] = head.weight[:kept].mean(0, dtype=torch.float32)
        resized.weight[:kept] = head.weight[:kept]
        if bias:
            own = head.weight.new_zeros(kept) if head.bias is None else head.bias[:kept]
            resized.bias[:] = own.mean() + PADDING_LOGIT
            resized.bias[:kept] = own
    return resized


def _pad_input_embedding(model: PreTrainedModel, num_rows: int) -> None:
    embedding = model.get_input_embeddings()
    if (num_added := num_rows - len(embedding.weight)) > 0:
        zeros = embedding.weight.new_zeros(num_added, embedding.weight.shape[1])
        embedding.weight = nn.Parameter(torch.cat([embedding.weight.detach(), zeros]))
        embedding.num_embeddings = num_rows
