"""How often a model's sampled answers are right, over all problems and by style of answer."""

import math
from typing import Any

from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from effopd.sampling import evaluation_mode, sample_tokens, seeded
from effopd.world.reward import answering_style, world_reward
from effopd.world.task import count_operations


def sample_completions(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[str],
    seed: int,
    max_new_tokens: int,
    batch_size: int = 1000,
) -> list[str]:
    """Sample one completion for each prompt at temperature 1 from the whole vocabulary.

    Torch's global generators are left as they were found.

    Args:
        model: Causal language model.
        tokenizer: Tokenizer of the model, padding on the left.
        prompts: Texts to complete.
        seed: Random seed for sampling.
        max_new_tokens: Largest number of tokens to sample for a prompt.
        batch_size: Number of prompts to complete at a time.

    Returns:
        The completions in the order of the prompts, without special tokens.
    """
    completions: list[str] = []
    with evaluation_mode(model), seeded(seed, model.device):
        for start in range(0, len(prompts), batch_size):
            _, new_tokens = sample_batch(model, tokenizer, prompts[start : start + batch_size], max_new_tokens)
            completions += tokenizer.batch_decode(new_tokens, skip_special_tokens=True)
    return completions


def sample_batch(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: list[str], max_new_tokens: int
) -> tuple[Any, Tensor]:
    """Sample one completion for each prompt at temperature 1, all at once.

    Returns:
        The tokenizer's `input_ids` and `attention_mask` of the prompts, and the new tokens, int64 [B, T].
    """
    inputs = tokenizer(prompts, padding=True, return_tensors="pt")
    new_tokens = sample_tokens(
        model,
        inputs["input_ids"],
        inputs["attention_mask"],
        max_new_tokens=max_new_tokens,
        eos_token_ids=[tokenizer.eos_token_id],
        pad_token_id=tokenizer.pad_token_id,
    )
    return inputs, new_tokens


def measure_accuracy(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, dataset: Dataset, seed: int = 0
) -> dict[str, Any]:
    """Measure how many problems a model solves with one completion each, sampled at temperature 1.

    Args:
        model: Causal language model.
        tokenizer: Tokenizer of the model, padding on the left.
        dataset: Problems as `make_dataset` makes them, all of one length.
        seed: Random seed for sampling.

    Returns:
        The `accuracy` over all problems, in [0, 1], its binomial standard error `stderr`, and the number of problems
        `num_examples`. `by_style` holds the same three for the completions of each style (`direct`, `step_by_step` and
        `malformed`), and their `share` of all completions; a style without completions has None for its accuracy and
        standard error.
    """
    prompts, answers = list(dataset["prompt"]), list(dataset["answer"])
    num_operations = count_operations(prompts[0])
    completions = sample_completions(model, tokenizer, prompts, seed, 2 * num_operations + 2)
    rewards = world_reward(completions, answers, prompts=prompts)
    styles = [answering_style(completion, num_operations) for completion in completions]
    by_style = {}
    for style in ("direct", "step_by_step", "malformed"):
        chosen = [reward for reward, other in zip(rewards, styles, strict=True) if other == style]
        by_style[style] = {"share": len(chosen) / len(rewards), **mean_with_stderr(chosen)}
    return {**mean_with_stderr(rewards), "by_style": by_style}


def mean_with_stderr(rewards: list[float]) -> dict[str, Any]:
    """Average rewards of 0 and 1 to an `accuracy` with its binomial standard error `stderr`; both None if empty."""
    count = len(rewards)
    if count == 0:
        return {"accuracy": None, "stderr": None, "num_examples": 0}
    mean = sum(rewards) / count
    return {"accuracy": mean, "stderr": math.sqrt(mean * (1 - mean) / count), "num_examples": count}
