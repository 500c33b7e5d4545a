"""Sampling from a model: seeded, from the whole vocabulary, and without touching anybody else's random numbers."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from transformers import GenerationConfig, PreTrainedModel


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's global generators of the CPU and of one device, and put them back as they were afterwards."""
    cuda = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if cuda else []):
        torch.default_generator.manual_seed(seed)
        if cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


@contextmanager
def evaluation_mode(*models: torch.nn.Module) -> Iterator[None]:
    """Switch dropout and gradients off, and put the models back into the mode that they were in."""
    modes = [model.training for model in models]
    for model in models:
        model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for model, mode in zip(models, modes, strict=True):
            model.train(mode)


def sample_tokens(
    model: PreTrainedModel,
    input_ids_BP: torch.Tensor,
    attention_mask_BP: torch.Tensor,
    *,
    max_new_tokens: int,
    eos_token_ids: Sequence[int],
    pad_token_id: int,
    temperature: float = 1.0,
) -> torch.Tensor:
    """Sample a continuation of every row, from the whole vocabulary.

    The model's own `generation_config`, which may cut the vocabulary or punish repetition, is not followed. To be
    called within `seeded` and `evaluation_mode`.

    Args:
        model: A causal language model.
        input_ids_BP: Prompts, padded on the left, int64 [B, P].
        attention_mask_BP: 0 on the padding, else 1.
        max_new_tokens: At least 1.
        eos_token_ids: Tokens that end a continuation.
        pad_token_id: What is written after the end.
        temperature: Logits are divided by it; 0 takes the most probable token.

    Returns:
        The new tokens [B, T], T at most `max_new_tokens`.
    """
    sampling = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
    generation = GenerationConfig(
        **(sampling if temperature > 0 else {"do_sample": False}),
        max_new_tokens=max_new_tokens,
        eos_token_id=list(eos_token_ids),
        pad_token_id=pad_token_id,
    )
    own = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        sequences_BL = model.generate(
            input_ids=input_ids_BP.to(model.device),
            attention_mask=attention_mask_BP.to(model.device),
            generation_config=generation,
        )
    finally:
        model.generation_config = own
    new_tokens_BT: torch.Tensor = sequences_BL[:, input_ids_BP.shape[1] :]
    return new_tokens_BT
