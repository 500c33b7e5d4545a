"""The sizes of published models, as their config.json on the hub has them, and how many parameters that makes."""

import torch
from transformers import AutoConfig, AutoModelForCausalLM

_QWEN3 = {"model_type": "qwen3", "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151_936}
_QWEN2 = {"model_type": "qwen2"}
# hidden_size, intermediate_size, num_hidden_layers, num_attention_heads, tie_word_embeddings; and what else differs
SIZES = {
    "Qwen/Qwen2.5-1.5B": (1536, 8960, 28, 12, True, _QWEN2 | {"num_key_value_heads": 2, "vocab_size": 151_936}),
    "Qwen/Qwen2.5-32B": (5120, 27_648, 64, 40, False, _QWEN2 | {"num_key_value_heads": 8, "vocab_size": 152_064}),
    "Qwen/Qwen3-1.7B-Base": (2048, 6144, 28, 16, True, _QWEN3),
    "Qwen/Qwen3-4B": (2560, 9728, 36, 32, True, _QWEN3),
    "Qwen/Qwen3-4B-Base": (2560, 9728, 36, 32, True, _QWEN3),
    "Qwen/Qwen3-8B-Base": (4096, 12_288, 36, 32, False, _QWEN3),
    "Qwen/Qwen3-14B-Base": (5120, 17_408, 40, 40, False, _QWEN3),
}


def published(name: str) -> AutoConfig:
    """The configuration of a published model."""
    hidden, intermediate, layers, heads, tied, others = SIZES[name]
    return AutoConfig.for_model(
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        tie_word_embeddings=tied,
        **others,
    )


def count_parameters(name: str) -> int:
    """Number of parameters, of which tied ones count once; no memory is taken for them."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(published(name))
    return sum(parameter.numel() for parameter in model.parameters())
