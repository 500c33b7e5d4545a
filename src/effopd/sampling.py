"""Sampling from a model's whole vocabulary, with a seed, leaving torch's random state as it was found."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch

from effopd.errors import ConfigurationError, DivergedError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def derived_seed(seed: int, *part: int) -> int:
    """Derive the seed of one part of the work, in 0..2^31 - 1. Different parts get unrelated seeds.

    Args:
        seed: Random seed of the whole.
        part: Whole numbers, at least 0, that name the part.
    """
    return int(np.random.SeedSequence((seed % 2**63, *part)).generate_state(1)[0] >> 1)


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's global generators within the context, and give them back their former state afterwards.

    Args:
        seed: Random seed, the same for both generators.
        device: Device whose generator is seeded beside the CPU's.
    """
    cuda = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if cuda else []):
        torch.default_generator.manual_seed(seed)
        if cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


@contextmanager
def evaluation_mode(*models: torch.nn.Module) -> Iterator[None]:
    """Switch dropout and gradients off within the context, and give each model back its former mode afterwards."""
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
    model: "PreTrainedModel",
    input_ids_BP: torch.Tensor,
    attention_mask_BP: torch.Tensor,
    *,
    max_new_tokens: int,
    eos_token_ids: Sequence[int],
    pad_token_id: int,
    temperature: float = 1.0,
) -> torch.Tensor:
    """Sample one continuation of every prompt in a batch, from the whole vocabulary.

    The model's own `generation_config`, which may cut the vocabulary or punish repetition, is not followed. Call this
    within `seeded` and `evaluation_mode`.

    Args:
        model: Causal language model.
        input_ids_BP: Token ids of B prompts, padded on the left to P tokens, int64 [B, P].
        attention_mask_BP: Mask of the same shape: 0 on the padding, 1 elsewhere.
        max_new_tokens: Largest number of tokens to sample for a prompt, at least 1.
        eos_token_ids: Ids of the tokens that end a continuation.
        pad_token_id: Id that fills a row after its end.
        temperature: Number that the logits are divided by, at least 0; 0 always takes the most probable token.

    Returns:
        Ids of the new tokens, int64 [B, T], with T at most `max_new_tokens`.

    Raises:
        ConfigurationError: The model has fewer positions than a prompt and its continuation need.
        DivergedError: The model's logits are not finite.
    """
    # Imported here, because the random numbers are needed without transformers too.
    from transformers import GenerationConfig, LogitsProcessorList

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
            logits_processor=LogitsProcessorList([_finite]),
        )
    except IndexError as error:  # of learned positions, on a CPU
        raise ConfigurationError(
            f"{model.name_or_path}: prompts of {input_ids_BP.shape[1]} tokens and {max_new_tokens} new ones may be "
            "more than the model has positions for. Lower the number of new tokens, or leave long prompts out."
        ) from error
    finally:
        model.generation_config = own
    new_tokens_BT: torch.Tensor = sequences_BL[:, input_ids_BP.shape[1] :]
    return new_tokens_BT


def _finite(input_ids_BL: torch.Tensor, logits_BV: torch.Tensor) -> torch.Tensor:
    """Return logits as they are, unless one is NaN or infinite, or none in a row is above minus infinity."""
    if not torch.isfinite(logits_BV.amax(-1)).all():
        raise DivergedError(
            "The model's logits are not finite, so that nothing can be sampled from it: its training has diverged, or "
            "its weights are damaged."
        )
    return logits_BV
