from pathlib import Path

import pytest
from transformers import AutoTokenizer

from effopd.world.tokenizer import CHARACTERS, make_tokenizer

TEXT = "7*3+4-9*2+5=1,5,6,2,7;"


def test_round_trip_through_saving(tmp_path: Path) -> None:
    made = make_tokenizer()
    made.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    for tokenizer in (made, loaded):
        ids = tokenizer(TEXT)["input_ids"]
        assert len(ids) == len(TEXT)
        assert ids == made(TEXT)["input_ids"]
        assert tokenizer.decode(ids) == TEXT
        assert tokenizer.decode(ids, skip_special_tokens=True) == TEXT.rstrip(";")
        assert ids[-1] == tokenizer.eos_token_id
        assert len(tokenizer) == len(CHARACTERS) + 2 == 18


def test_pads_on_the_left() -> None:
    tokenizer = make_tokenizer()
    batch = tokenizer(["1+2=", "1="], padding=True)
    assert batch["input_ids"][1][:2] == [tokenizer.pad_token_id] * 2
    assert batch["attention_mask"] == [[1, 1, 1, 1], [0, 0, 1, 1]]


def test_other_characters_are_refused(tmp_path: Path) -> None:
    make_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(Exception, match=r"Missing .* token from the vocabulary"):
        AutoTokenizer.from_pretrained(tmp_path)("1/2=")
