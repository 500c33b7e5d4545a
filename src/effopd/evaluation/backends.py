"""What generates completions: transformers with a model in memory, or vLLM.

A backend takes a batch of prompts as token ids. Its random numbers depend on the batch's seed, and on nothing that came
before.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from effopd.errors import ConfigurationError, DataError, UnsupportedError
from effopd.sampling import evaluation_mode, sample_tokens, seeded

Prompt = str | list[dict[str, Any]]


@dataclass(frozen=True)
class Sampled:
    """What was sampled after one prompt.

    Attributes:
        token_ids: With the end-of-sequence token if it was reached, and without padding.
        truncated: Whether the limit came before the end-of-sequence token.
    """

    token_ids: list[int]
    truncated: bool


class Backend(Protocol):
    """Generates completions."""

    tokenizer: PreTrainedTokenizerBase

    def complete(
        self, prompts: Sequence[Sequence[int]], seed: int, *, max_new_tokens: int, temperature: float
    ) -> list[Sampled]:
        """One completion for each prompt, sampled from the whole vocabulary; temperature 0 is greedy."""


class TransformersBackend:
    """Generates with a model in memory, as it is at that moment.

    A batch is seeded as a whole, so that what is sampled depends on which prompts share a batch.

    Args:
        model: A causal language model.
        tokenizer: Its tokenizer.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self.model = model
        self.tokenizer = tokenizer
        own = model.generation_config.eos_token_id
        ends = [tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])]
        self._ends = sorted({int(token) for token in ends if token is not None})
        if not self._ends:
            raise ConfigurationError("Neither tokenizer nor model name an end-of-sequence token; set eos_token.")
        self._padding = self._ends[0] if tokenizer.pad_token_id is None else int(tokenizer.pad_token_id)

    def complete(
        self, prompts: Sequence[Sequence[int]], seed: int, *, max_new_tokens: int, temperature: float
    ) -> list[Sampled]:
        """One completion for each prompt."""
        width = max(map(len, prompts))
        ids_BP = torch.tensor([[self._padding] * (width - len(prompt)) + list(prompt) for prompt in prompts])
        mask_BP = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        with evaluation_mode(self.model), seeded(seed, self.model.device):
            new_tokens_BT = sample_tokens(
                self.model,
                ids_BP,
                mask_BP,
                max_new_tokens=max_new_tokens,
                eos_token_ids=self._ends,
                pad_token_id=self._padding,
                temperature=temperature,
            )
        return [self._cut(row) for row in new_tokens_BT.tolist()]

    def _cut(self, tokens: list[int]) -> Sampled:
        end = next((index for index, token in enumerate(tokens) if token in self._ends), None)
        return Sampled(tokens if end is None else tokens[: end + 1], end is None)


class VLLMBackend:
    """Generates with vLLM's offline engine.

    Every completion is a request with a seed of its own, so that the samples of one prompt differ, and a batch can be
    cut anywhere; vLLM's prefix cache reads their prompt once.

    Args:
        name: Directory or hub name of the model.
        tokenizer: Its tokenizer.
        dtype: As vLLM takes it: `auto`, `bfloat16`, ...
        engine: Further arguments of `vllm.LLM`.

    Raises:
        UnsupportedError: vLLM is not installed.
    """

    def __init__(self, name: str, tokenizer: PreTrainedTokenizerBase, *, dtype: str = "auto", **engine: Any) -> None:
        try:
            import vllm
        except ImportError as error:
            raise UnsupportedError(
                f"--backend vllm needs vLLM, which cannot be imported ({error}): pip install 'effopd[vllm]', or use"
                " --backend hf."
            ) from error
        self.tokenizer = tokenizer
        self._vllm = vllm
        self._engine = vllm.LLM(model=name, dtype=dtype, **engine)

    def complete(
        self, prompts: Sequence[Sequence[int]], seed: int, *, max_new_tokens: int, temperature: float
    ) -> list[Sampled]:
        """One completion for each prompt."""
        requests = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
        shared = {"n": 1, "temperature": temperature, "top_p": 1.0, "max_tokens": max_new_tokens}
        parameters = [
            self._vllm.SamplingParams(seed=derived_seed(seed, index), **shared) for index in range(len(prompts))
        ]
        outputs = self._engine.generate(requests, parameters, use_tqdm=False)
        first = [output.outputs[0] for output in outputs]
        return [Sampled(list(each.token_ids), each.finish_reason == "length") for each in first]


def derived_seed(seed: int, index: int) -> int:
    """A seed for one part of the work, in 0..2^31 - 1; different parts get unrelated ones."""
    return int(np.random.SeedSequence((seed, index)).generate_state(1)[0] >> 1)


def encode_prompts(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt]) -> list[list[int]]:
    """Token ids of prompts: texts as they are, messages by the tokenizer's chat template.

    Raises:
        ConfigurationError: There is no chat template for messages.
        DataError: A prompt has no tokens, or the tokenizer or its template cannot take it.
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
                text = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False)
                ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        except Exception as error:  # tokenizers and templates raise what they like
            raise DataError(
                f"Prompt {index} (from 0) cannot be made into tokens: {error}: {str(prompt)[:200]!r}. Mend it, or take"
                " a model that knows its characters."
            ) from error
        if not ids:
            raise DataError(f"Prompt {index} (from 0) has no tokens: {prompt!r}. Remove it, or fill it in.")
        encoded.append(list(ids))
    return encoded
