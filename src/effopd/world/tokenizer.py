"""The tokenizer of the embedded world: one token for each character of the task."""

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

PAD_TOKEN = "<pad>"
EOS_TOKEN = ";"
CHARACTERS = "0123456789+-*=,#"


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Make the tokenizer of 18 tokens, which pads on the left and adds no special tokens.

    The `;` that closes every completion is the end-of-sequence token, which makes a sequence one token shorter.
    Decoding with `skip_special_tokens=True` removes it. There is no unknown token: encoding any other character raises
    an error.
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
