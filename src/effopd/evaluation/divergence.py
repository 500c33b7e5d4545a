"""Reverse KL between a model and its teacher on the model's own completions, exact over the vocabulary.

Letters of shapes: B sequences, T tokens, P scored positions, V vocabulary.
"""

from collections.abc import Iterator, Sequence

import torch
from torch.nn import functional
from transformers import PreTrainedModel

from effopd.models.vocabulary import align_logits, vocabulary_size
from effopd.sampling import evaluation_mode

_MAX_TOKENS = 16_384
_MAX_LOGITS = 2**27


def reverse_kl(
    model: PreTrainedModel,
    teacher: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    *,
    max_tokens: int = _MAX_TOKENS,
    max_logits: int = _MAX_LOGITS,
) -> list[float]:
    """Sum KL(model || teacher) of the next-token distributions over each completion, which is the objective of OPD.

    Both distributions are those at temperature 1. Micro-batches bound the memory: where the logits of one do not fit,
    its positions are taken part by part, each with a forward pass of its own. Vocabularies may be padded to different
    sizes (see `effopd.models.vocabulary`).

    Args:
        model: Model that sampled the completions.
        teacher: Model with the same tokenizer.
        prompts: N prompts as token ids, none of them empty.
        completions: N completions as token ids, each with the end-of-sequence token if it was sampled.
        max_tokens: Largest number of tokens in a micro-batch, with padding. A longer sequence is a micro-batch of its
            own.
        max_logits: Largest number of logits that a model computes at a time. Several copies in float32 are held.

    Returns:
        N sums in nats, 0 for an empty completion.
    """
    sums = [0.0] * len(prompts)
    with evaluation_mode(model, teacher):
        for rows in _micro_batches(prompts, completions, max_tokens):
            batch = [(list(prompts[row]), list(completions[row])) for row in rows]
            for row, value in zip(rows, _batch_kl(model, teacher, batch, max_logits), strict=True):
                sums[row] = value
    return sums


def _micro_batches(
    prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]], max_tokens: int
) -> Iterator[list[int]]:
    """Yield the indices of the non-empty completions in micro-batches of similar length, longest sequences first."""
    lengths = [len(prompt) + len(completion) for prompt, completion in zip(prompts, completions, strict=True)]
    order = sorted((row for row in range(len(lengths)) if completions[row]), key=lambda row: -lengths[row])
    start = 0
    while start < len(order):
        size = max(1, max_tokens // lengths[order[start]])
        yield order[start : start + size]
        start += size


def _batch_kl(
    model: PreTrainedModel, teacher: PreTrainedModel, batch: list[tuple[list[int], list[int]]], max_logits: int
) -> list[float]:
    """Sum the KL of a micro-batch, padded on the right, where causal attention from real tokens does not look."""
    lengths = [(len(prompt), len(prompt) + len(completion)) for prompt, completion in batch]
    longest = max(end for _, end in lengths)
    rows = [prompt + completion for prompt, completion in batch]
    ids_BT = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    starts_B1, ends_B1 = torch.tensor(lengths).T[:, :, None]
    mask_BT = (torch.arange(longest) < ends_B1).long()
    # The logits at one position are those of the next token.
    first, last = min(start for start, _ in lengths) - 1, longest - 1
    size = max(1, max_logits // (len(batch) * vocabulary_size(model.config)))
    sums_B = torch.zeros(len(batch), dtype=torch.float64)
    for start in range(first, last, size):
        positions_P = torch.arange(start, min(start + size, last))
        student_BPV = _log_probabilities(model, ids_BT, mask_BT, positions_P)
        width = student_BPV.shape[-1]
        teacher_BPV = _log_probabilities(teacher, ids_BT, mask_BT, positions_P, width).to(student_BPV.device)
        kl_BP = functional.kl_div(teacher_BPV, student_BPV, reduction="none", log_target=True).sum(-1).cpu().double()
        scored_BP = (positions_P >= starts_B1 - 1) & (positions_P < ends_B1 - 1)
        sums_B += kl_BP.masked_fill(~scored_BP, 0.0).sum(1)
    values: list[float] = sums_B.tolist()
    return values


def _log_probabilities(
    model: PreTrainedModel,
    ids_BT: torch.Tensor,
    mask_BT: torch.Tensor,
    positions_P: torch.Tensor,
    width: int | None = None,
) -> torch.Tensor:
    """Compute log-probabilities [B, P, V] at some positions, over the first `width` tokens, or over all of them."""
    ids_BT, mask_BT, positions_P = (each.to(model.device) for each in (ids_BT, mask_BT, positions_P))
    output = model(input_ids=ids_BT, attention_mask=mask_BT, use_cache=False, logits_to_keep=positions_P)
    logits_BPV = output.logits.float()
    if width is not None:
        logits_BPV = align_logits(logits_BPV, width)
    log_probabilities_BPV: torch.Tensor = logits_BPV.log_softmax(-1)
    return log_probabilities_BPV
