"""A character-level tokenizer for the task's characters."""

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

PAD_TOKEN = "<pad>"
EOS_TOKEN = ";"
CHARACTERS = "0123456789+-*=,#"


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Make the tokenizer: one token per character, 18 in all; pads on the left, adds no special tokens.

    `;`, which closes every completion, is itself the end-of-sequence token. A sequence is one token shorter that
    way, and decoding with `skip_special_tokens=True` removes it. There is no unknown token: encoding any other
    character raises.
    """
    vocabulary = {token: index for index, token in enumerate([PAD_TOKEN, EOS_TOKEN, *CHARACTERS])}
    backend = Tokenizer(models.WordLevel(vocabulary))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex("."), behavior="isolated")
    backend.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD_TOKEN,
        eos_token=EOS_TOKEN,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
