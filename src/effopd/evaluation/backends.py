"""What generates completions: the interface of backends, and the one with a model of transformers in memory.

The other one is in `effopd.evaluation.vllm_backend`. A backend takes a batch of prompts as token ids. Its random
numbers depend on the seed of the batch alone, and not on what it generated before.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from typing_extensions import override

from effopd.errors import ConfigurationError
from effopd.sampling import evaluation_mode, sample_tokens, seeded


@dataclass(frozen=True)
class Sampled:
    """What was sampled after one prompt.

    Attributes:
        token_ids: Sampled tokens, with the end-of-sequence token if it was reached, and without padding.
        truncated: Whether the limit on tokens came before the end-of-sequence token.
    """

    token_ids: list[int]
    truncated: bool


class Backend(Protocol):
    """Generates completions.

    Attributes:
        model: The model in memory, by which a KL can be measured; None if there is none.
        tokenizer: Tokenizer of the model.
    """

    model: PreTrainedModel | None
    tokenizer: PreTrainedTokenizerBase

    def complete(
        self, prompts: Sequence[Sequence[int]], seed: int, *, max_new_tokens: int, temperature: float
    ) -> list[Sampled]:
        """Sample one completion for each prompt, from the whole vocabulary.

        Args:
            prompts: N prompts as token ids.
            seed: Random seed for this batch.
            max_new_tokens: Limit on the tokens of a completion, at least 1.
            temperature: Sampling temperature; 0 takes the most probable token.

        Returns:
            N completions.
        """


class TransformersBackend(Backend):
    """Generates with a model in memory, with the weights that it has at that moment.

    A batch is seeded as a whole, so what is sampled depends on which prompts share a batch.

    Args:
        model: A causal language model.
        tokenizer: Tokenizer of the model.

    Raises:
        ConfigurationError: Neither model nor tokenizer has an end-of-sequence token.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self.model: PreTrainedModel = model
        self.tokenizer = tokenizer
        own = model.generation_config.eos_token_id
        ends = [tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])]
        self._ends = sorted({int(token) for token in ends if token is not None})
        if not self._ends:
            raise ConfigurationError("Neither tokenizer nor model name an end-of-sequence token; set eos_token.")
        self._padding = self._ends[0] if tokenizer.pad_token_id is None else int(tokenizer.pad_token_id)

    @override
    def complete(
        self, prompts: Sequence[Sequence[int]], seed: int, *, max_new_tokens: int, temperature: float
    ) -> list[Sampled]:
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
