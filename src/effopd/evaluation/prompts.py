"""Prompts as texts and messages, and how they become tokens."""

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from effopd.errors import ConfigurationError, DataError

Prompt = str | list[dict[str, Any]]
"""A text, which the model continues, or messages, which its chat template renders."""


def encode_prompts(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt], chat_template_kwargs: Mapping[str, Any] | None = None
) -> list[list[int]]:
    """Turn prompts into token ids: texts as they are, messages by the tokenizer's chat template.

    Args:
        tokenizer: Tokenizer of the model.
        prompts: N prompts.
        chat_template_kwargs: What the chat template is given besides the messages, by name.

    Returns:
        N lists of token ids.

    Raises:
        ConfigurationError: The prompts are messages, and the tokenizer has no chat template.
        DataError: A prompt has no tokens, or the tokenizer or its template fails on it.
    """
    encoded = []
    for index, prompt in enumerate(prompts):
        if not isinstance(prompt, str) and tokenizer.chat_template is None:
            raise ConfigurationError(
                "The prompts are messages, and the tokenizer has no chat template. Choose a chat model, or leave out"
                " --chat."
            )
        try:
            if isinstance(prompt, str):
                ids = tokenizer(prompt)["input_ids"]
            else:
                options = dict(chat_template_kwargs or {})
                text = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False, **options)
                ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        except Exception as error:  # tokenizers and templates may raise anything
            raise DataError(
                f"Prompt {index} (from 0) cannot be made into tokens: {error}: {str(prompt)[:200]!r}. Mend it, or take"
                " a model that knows its characters."
            ) from error
        if not ids:
            raise DataError(f"Prompt {index} (from 0) has no tokens: {prompt!r}. Remove it, or fill it in.")
        encoded.append(list(ids))
    return encoded
