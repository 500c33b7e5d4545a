"""KL divergences between two models of a world on completions that one of them sampled, exact over the vocabulary.

Letters of shapes: B sequences, P prompt tokens, T completion tokens, V vocabulary.
"""

import math
from typing import Any

import torch
from torch.nn import functional
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from effopd.sampling import evaluation_mode, seeded
from effopd.world.evaluate import sample_batch


def kl_on_samples(
    sampler: PreTrainedModel,
    other: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[str],
    seed: int,
    max_new_tokens: int,
    batch_size: int = 500,
) -> dict[str, dict[str, Any]]:
    """Measure how far two models' next-token distributions are apart at the tokens of completions that one sampled.

    Args:
        sampler: Model that samples the completions, at temperature 1 from the whole vocabulary.
        other: Model with the same tokenizer.
        tokenizer: Tokenizer of both models, padding on the left.
        prompts: Texts to complete.
        seed: Random seed for sampling.
        max_new_tokens: Largest number of tokens to sample for a prompt.
        batch_size: Number of prompts to complete at a time.

    Returns:
        Under `sampler_to_other` KL(sampler || other), and under `other_to_sampler` KL(other || sampler). Each has the
        mean over completions of the sum over tokens, `nats_per_completion`; that divided by the mean number of tokens,
        `nats_per_token`; its standard error, `stderr_per_token`; and the number of completions, `num_examples`.
    """
    sums: dict[str, list[float]] = {"sampler_to_other": [], "other_to_sampler": []}
    lengths: list[float] = []
    with evaluation_mode(sampler, other), seeded(seed, sampler.device):
        for start in range(0, len(prompts), batch_size):
            batch = prompts[start : start + batch_size]
            inputs, completions_BT = sample_batch(sampler, tokenizer, batch, max_new_tokens)
            ends_BT = completions_BT == tokenizer.eos_token_id
            mask_BT = ends_BT.cumsum(1) - ends_BT.long() == 0  # up to the first end of sequence, which counts too
            sampler_BTV, other_BTV = (
                _log_probabilities(model, inputs["input_ids"], inputs["attention_mask"], completions_BT, mask_BT)
                for model in (sampler, other)
            )
            for name, target, source in (
                ("sampler_to_other", sampler_BTV, other_BTV),
                ("other_to_sampler", other_BTV, sampler_BTV),
            ):
                kl_BT = functional.kl_div(source, target, reduction="none", log_target=True).sum(-1)
                sums[name] += kl_BT.masked_fill(~mask_BT, 0.0).sum(1).tolist()
            lengths += mask_BT.sum(1).double().tolist()
    return {name: _ratio(values, lengths) for name, values in sums.items()}


def _log_probabilities(
    model: PreTrainedModel,
    prompt_BP: torch.Tensor,
    prompt_mask_BP: torch.Tensor,
    completions_BT: torch.Tensor,
    mask_BT: torch.Tensor,
) -> torch.Tensor:
    """Compute float64 log-probabilities [B, T, V] at the completion tokens."""
    ids = torch.cat([prompt_BP.to(model.device), completions_BT.to(model.device)], 1)
    mask = torch.cat([prompt_mask_BP.to(model.device), mask_BT.long().to(model.device)], 1)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    logits = model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False).logits
    log_probabilities_BTV: torch.Tensor = logits[:, prompt_BP.shape[1] - 1 : -1].double().log_softmax(-1)
    return log_probabilities_BTV.to(completions_BT.device)


def _ratio(values: list[float], lengths: list[float]) -> dict[str, Any]:
    """Divide a mean of sums by a mean length, with the standard error of a ratio of means."""
    count = len(values)
    mean, mean_length = sum(values) / count, sum(lengths) / count
    ratio = mean / mean_length
    variance = sum((value - ratio * length) ** 2 for value, length in zip(values, lengths, strict=True)) / count
    return {
        "nats_per_completion": mean,
        "nats_per_token": ratio,
        "stderr_per_token": math.sqrt(variance / count) / mean_length,
        "num_examples": count,
    }
