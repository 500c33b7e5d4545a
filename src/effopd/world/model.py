"""The model of the embedded world: a small Llama."""

from dataclasses import dataclass

from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from effopd.checks import check_whole
from effopd.errors import ConfigurationError


@dataclass(frozen=True)
class ModelSize:
    """The sizes of a Llama model; the defaults give 0.86 million parameters.

    Attributes:
        hidden_size: Width of the residual stream, a multiple of `2 * num_heads`.
        intermediate_size: Width of the MLPs.
        num_layers: Number of decoder layers.
        num_heads: Number of attention heads, each with keys and values of its own.

    Raises:
        ConfigurationError: A size is below 1, or the width is no multiple of `2 * num_heads`.
    """

    hidden_size: int = 128
    intermediate_size: int = 384
    num_layers: int = 4
    num_heads: int = 4

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            check_whole(name, value, 1)
        if self.hidden_size % (2 * self.num_heads):
            raise ConfigurationError(
                f"hidden_size: got {self.hidden_size} with num_heads={self.num_heads}, expected a multiple of"
                f" {2 * self.num_heads} (rotary embeddings need an even head size)."
            )


def make_model(size: ModelSize, tokenizer: PreTrainedTokenizerFast, max_length: int) -> LlamaForCausalLM:
    """Make a float32 model with random weights, whose input embedding and output head are untied.

    Weights are drawn from torch's global generator with the standard deviation `hidden_size ** -0.5`. Llama's own of
    0.02 is too small at this width: with it, the step-by-step skill takes five times as many steps to appear.

    Args:
        size: Sizes of the model.
        tokenizer: Tokenizer that gives the vocabulary and the special tokens.
        max_length: Length in tokens of the longest sequence that the model is declared to take.
    """
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=size.hidden_size,
            intermediate_size=size.intermediate_size,
            num_hidden_layers=size.num_layers,
            num_attention_heads=size.num_heads,
            num_key_value_heads=size.num_heads,
            max_position_embeddings=max_length,
            initializer_range=size.hidden_size**-0.5,
            tie_word_embeddings=False,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
