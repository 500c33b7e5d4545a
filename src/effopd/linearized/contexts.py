"""Contexts: the prompts and completions at whose tokens the model is linearised."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Contexts(NamedTuple):
    """N prompts with their completions, which stand next to each other, with padding before, after or on both sides.

    Attributes:
        input_ids: Token ids, int64 [N, L].
        attention_mask: 1 on prompts and completions, 0 on padding, int64 [N, L].
        completion_mask: 1 on the tokens of the completions, end-of-sequence tokens included; int64 [N, L].
    """

    input_ids: Tensor
    attention_mask: Tensor
    completion_mask: Tensor

    @property
    def num_tokens(self) -> int:
        """Number of completion tokens."""
        return int(self.completion_mask.sum())

    def rows(self, start: int, stop: int) -> "Contexts":
        """Take some of the contexts, without the columns that are padding in all of them."""
        taken = Contexts(*(each[start:stop] for each in self))
        used = taken.attention_mask.any(0)
        return Contexts(*(each[:, used] for each in taken))

    def batches(self, size: int) -> Iterator["Contexts"]:
        """Yield all contexts in micro-batches of at most `size`."""
        for start in range(0, len(self.input_ids), size):
            yield self.rows(start, start + size)


def make_contexts(prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]) -> Contexts:
    """Join prompts and completions, with padding on the right.

    Args:
        prompts: N prompts as token ids, none of them empty.
        completions: N completions as token ids, each with the end-of-sequence token if it was sampled.
    """
    rows = [[*prompt, *completion] for prompt, completion in zip(prompts, completions, strict=True)]
    length = max(map(len, rows))

    def padded(values: list[int]) -> list[int]:
        return values + [0] * (length - len(values))

    return Contexts(
        torch.tensor([padded(row) for row in rows]),
        torch.tensor([padded([1] * len(row)) for row in rows]),
        torch.tensor(
            [padded([0] * len(prompt) + [1] * len(each)) for prompt, each in zip(prompts, completions, strict=True)]
        ),
    )
