"""What is loaded is whole, and what is not is named."""

import json
import re
from pathlib import Path

import pytest
import torch
from training.tiny_models import make_tokenizer, write_tiny_qwen3

from effopd.errors import ConfigurationError, DataError
from effopd.models.load import load_model, load_tokenizer


@pytest.fixture(scope="module")
def qwen3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_qwen3(tmp_path_factory.mktemp("models") / "qwen3", vocab_padding=20)


def copied(source: Path, target: Path, *, skip: str = "") -> Path:
    target.mkdir()
    for file in source.iterdir():
        if not (skip and file.match(skip)):
            (target / file.name).write_bytes(file.read_bytes())
    return target


def test_load_tokenizer_pads_and_truncates_on_the_left(qwen3: Path) -> None:
    tokenizer = load_tokenizer(qwen3)
    assert (tokenizer.padding_side, tokenizer.truncation_side) == ("left", "left")
    assert tokenizer.decode(tokenizer("Grüße: 7*8")["input_ids"]) == "Grüße: 7*8"
    assert load_tokenizer(str(qwen3), pad_token="<|im_end|>").pad_token == "<|im_end|>"


def test_missing_pad_token_is_an_error_until_one_is_named(tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ConfigurationError, match=re.escape("--pad-token '<|endoftext|>', or pad_token in the file")):
        load_tokenizer(tmp_path)
    assert load_tokenizer(tmp_path, pad_token="<|endoftext|>").pad_token_id == 0
    with pytest.raises(ConfigurationError, match="'<pad>' is not in the vocabulary"):
        load_tokenizer(tmp_path, pad_token="<pad>")


def test_a_tokenizer_that_pads_nothing_needs_no_pad_token(tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path)
    assert load_tokenizer(tmp_path, require_pad_token=False).pad_token is None


@pytest.mark.parametrize("damaged", ["{", "{}", '{"version": "1.0", "added_tokens": [], "model": 3}'])
def test_a_damaged_tokenizer_is_named(qwen3: Path, tmp_path: Path, damaged: str) -> None:
    directory = copied(qwen3, tmp_path / "damaged")
    (directory / "tokenizer.json").write_text(damaged)
    with pytest.raises(DataError, match=r"damaged: cannot load the tokenizer: .*\n?.*every file is there and whole"):
        load_tokenizer(directory)


def test_a_directory_without_a_tokenizer_is_told_from_a_damaged_one(qwen3: Path, tmp_path: Path) -> None:
    for name, found in (("model", "config.json"), ("other", "notes.txt"), ("empty", "nothing")):
        (tmp_path / name).mkdir()
        if name != "empty":
            (tmp_path / name / found).write_text("{}")
        with pytest.raises(DataError, match=rf"{name}: there is no tokenizer; .* found {re.escape(found)}\. Pass a"):
            load_tokenizer(tmp_path / name)


def test_the_models_of_the_embedded_world_have_names() -> None:
    assert load_tokenizer("world:base").eos_token == ";"
    assert load_model("world:teacher").config.num_hidden_layers == 4


def test_weights_of_another_name_are_loaded_where_transformers_is_told_of_them(qwen3: Path, tmp_path: Path) -> None:
    expected = load_model(qwen3)
    expected.save_pretrained(tmp_path, variant="fp32")
    assert not (tmp_path / "model.safetensors").exists()
    loaded = load_model(tmp_path, variant="fp32").state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in expected.state_dict().items())


def test_load_model_takes_the_dtype_asked_for(qwen3: Path) -> None:
    assert {parameter.dtype for parameter in load_model(qwen3).parameters()} == {torch.float32}
    model = load_model(qwen3, dtype="auto", attn_implementation="eager")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert model.config._attn_implementation == "eager"
    assert not model.training
    with pytest.raises(ConfigurationError, match="'float31'"):
        load_model(qwen3, dtype="float31")


def test_arguments_of_the_model_that_it_does_not_know(qwen3: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"'colour'\. Is model_init_kwargs right"):
        load_model(qwen3, colour="red")


def test_load_model_refuses_what_is_not_a_model(qwen3: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DataError, match="found nothing"):
        load_model(empty)
    with pytest.raises(DataError, match=r"expected config\.json with model\.safetensors.*found .*tokenizer\.json"):
        load_model(copied(qwen3, tmp_path / "no_config", skip="config.json"))
    with pytest.raises(DataError, match=r"expected config\.json with model\.safetensors.*found .* config\.json"):
        load_model(copied(qwen3, tmp_path / "no_weights", skip="*.safetensors*"))
    with pytest.raises(DataError, match="is a file"):
        load_model(qwen3 / "config.json")
    with pytest.raises(ConfigurationError, match="revision"):
        load_model(qwen3, revision="main")


def test_load_model_refuses_incomplete_weights(qwen3: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="model-00002"):
        load_model(copied(qwen3, tmp_path / "no_shard", skip="model-00002*"))
    damaged = copied(qwen3, tmp_path / "damaged")
    shard = damaged / "model-00002-of-00004.safetensors"
    shard.write_bytes(shard.read_bytes()[:1000])
    with pytest.raises(DataError, match="damaged: cannot load the model"):
        load_model(damaged)
    deeper = copied(qwen3, tmp_path / "deeper")
    config = json.loads((deeper / "config.json").read_text())
    config |= {"num_hidden_layers": 3, "layer_types": ["full_attention"] * 3}
    (deeper / "config.json").write_text(json.dumps(config))
    with pytest.raises(DataError, match="lack 11 tensors of Qwen3ForCausalLM"):
        load_model(deeper)


def test_weights_of_other_shapes_than_the_config_asks_for_are_refused(qwen3: Path, tmp_path: Path) -> None:
    wider = copied(qwen3, tmp_path / "wider")
    config = json.loads((wider / "config.json").read_text())
    (wider / "config.json").write_text(json.dumps(config | {"vocab_size": config["vocab_size"] + 1}))
    with pytest.raises(DataError, match=r"other shapes than config\.json asks for, such as .*: got \(.*expected"):
        load_model(wider)


def test_pickled_weights_are_refused_and_the_remedy_works(qwen3: Path, tmp_path: Path) -> None:
    pickled = copied(qwen3, tmp_path / "pickled", skip="*.safetensors*")
    expected = load_model(qwen3).state_dict()
    torch.save(expected, pickled / "pytorch_model.bin")
    with pytest.raises(DataError, match="pickles") as raised:
        load_model(pickled)
    exec("\n".join(line.strip() for line in str(raised.value).splitlines()[1:]))
    converted = load_model(tmp_path / "pickled-safetensors").state_dict()
    assert all(torch.equal(converted[name], tensor) for name, tensor in expected.items())
