"""Tiny random-weight models with their tokenizers, written to disk as the real ones are."""

from functools import cache
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_LINES = [
    "What is 7 times 8? It is 56, so the answer is \\boxed{56}.",
    "Please reason step by step, and put your final answer within \\boxed{}.",
    "The user asks for the sum of the first ten numbers, which is 55.",
]


def make_tokenizer(extra_tokens: tuple[str, ...] = ()) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with Qwen's special tokens; `extra_tokens` come after all others."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_trained_tokenizer()),
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
        chat_template=CHAT_TEMPLATE,
    )
    if extra_tokens:
        tokenizer.add_tokens(list(extra_tokens))
    return tokenizer


def write_tiny_qwen3(
    path: str | Path,
    *,
    seed: int = 0,
    vocab_padding: int = 0,
    hidden_size: int = 32,
    num_layers: int = 2,
    tied: bool = True,
) -> Path:
    """Write a bf16 Qwen3 in several safetensors shards; `vocab_padding` rows have no token."""
    tokenizer = make_tokenizer()
    config = Qwen3Config(
        **_sizes(tokenizer, vocab_padding, hidden_size, num_layers), head_dim=8, tie_word_embeddings=tied
    )
    return _write(Qwen3ForCausalLM, config, tokenizer, Path(path), seed)


def write_tiny_qwen2(path: str | Path, *, seed: int = 0, vocab_padding: int = 0) -> Path:
    """Write an untied bf16 Qwen2.5 with the same tokenizer."""
    tokenizer = make_tokenizer()
    config = Qwen2Config(**_sizes(tokenizer, vocab_padding, 32, 2), tie_word_embeddings=False)
    return _write(Qwen2ForCausalLM, config, tokenizer, Path(path), seed)


def write_tiny_llama(path: str | Path, *, seed: int = 0, vocab_padding: int = 0) -> Path:
    """Write an untied bf16 Llama with the same tokenizer."""
    tokenizer = make_tokenizer()
    return _write(LlamaForCausalLM, LlamaConfig(**_sizes(tokenizer, vocab_padding, 32, 2)), tokenizer, Path(path), seed)


def _sizes(tokenizer: PreTrainedTokenizerFast, padding: int, hidden_size: int, num_layers: int) -> dict[str, int]:
    return {
        "vocab_size": len(tokenizer) + padding,
        "hidden_size": hidden_size,
        "intermediate_size": 2 * hidden_size,
        "num_hidden_layers": num_layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def _write(
    model_class: type[PreTrainedModel],
    config: Qwen3Config | Qwen2Config | LlamaConfig,
    tokenizer: PreTrainedTokenizerFast,
    path: Path,
    seed: int,
) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = model_class(config).to(torch.bfloat16)
    model.save_pretrained(path, max_shard_size="15KB")
    tokenizer.save_pretrained(path)
    return path


@cache
def _trained_tokenizer() -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_LINES, trainer)
    return tokenizer.to_str()
