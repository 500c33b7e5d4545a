"""Models are read as they are stored, and damaged ones are named."""

import json
import pickle
from pathlib import Path

import pytest
import torch
from tiny_pairs import copy, load_tensors, write_raw
from transformers import AutoModelForCausalLM

from effopd.checkpoints import open_model
from effopd.errors import ConfigurationError, DataError, UnsupportedError
from effopd.models import find
from effopd.world import base_dir

INDEX = "model.safetensors.index.json"


def test_shards_are_read_bit_for_bit_in_the_order_of_layers(llama: Path) -> None:
    assert len(list(llama.glob("*.safetensors"))) > 1
    reader = pickle.loads(pickle.dumps(open_model(str(llama))))
    expected = load_tensors(llama)
    assert reader.tensors.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(reader.read(name), tensor)
        assert reader.shapes[name] == tuple(tensor.shape)
        assert reader.dtypes[name] == tensor.dtype == torch.bfloat16
    layers = [int(name.split(".")[2]) for name in reader.tensors if ".layers." in name]
    assert layers == sorted(layers)


def test_a_single_file_equals_shards(llama: Path, tmp_path: Path) -> None:
    AutoModelForCausalLM.from_pretrained(llama, dtype="auto").save_pretrained(tmp_path)
    single, sharded = open_model(tmp_path), open_model(llama)
    assert list(single.tensors) == list(sharded.tensors)
    assert all(torch.equal(single.read(name), sharded.read(name)) for name in single.tensors)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_other_dtypes(llama: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    AutoModelForCausalLM.from_pretrained(llama, dtype=dtype).save_pretrained(tmp_path)
    assert set(open_model(tmp_path).dtypes.values()) == {dtype}


def test_experts_of_a_stack_are_slices(tmp_path: Path) -> None:
    stack = torch.randn(3, 4, 5)
    reader = open_model(write_raw(tmp_path / "m", {"model.layers.0.mlp.experts.gate_up_proj": stack}))
    (name,) = reader.tensors
    assert torch.equal(reader.read(f"{name}[2]"), stack[2])
    for wrong in (f"{name}[3]", "nothing", "nothing[0]"):
        with pytest.raises(DataError, match=r"has no tensor .*its names begin model\.layers"):
            reader.read(wrong)


def test_damaged_shards_are_named(llama: Path, tmp_path: Path) -> None:
    shard = sorted(llama.glob("*.safetensors"))[1].name
    cut = copy(llama, tmp_path / "cut")
    (cut / shard).write_bytes((llama / shard).read_bytes()[:-10])
    with pytest.raises(DataError, match=rf"{shard}: not a whole safetensors file"):
        open_model(cut)
    (cut / shard).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\n")
    with pytest.raises(DataError, match=rf"{shard}: not a whole safetensors file.*Git LFS"):
        open_model(cut)
    (cut / shard).unlink()
    with pytest.raises(DataError, match=rf"names 1 shards that are not there: {shard}"):
        open_model(cut)


def test_a_tensor_that_the_index_promises(llama: Path, tmp_path: Path) -> None:
    broken = copy(llama, tmp_path / "broken")
    index = json.loads((broken / INDEX).read_text())
    shard = index["weight_map"]["model.norm.weight"]
    index["weight_map"]["model.lost.weight"] = shard
    (broken / INDEX).write_text(json.dumps(index))
    with pytest.raises(DataError, match=rf"{shard} lacks 1 tensors that .* promises: model\.lost\.weight"):
        open_model(broken)
    (broken / INDEX).write_text("{")
    with pytest.raises(DataError, match="cannot be read as JSON"):
        open_model(broken)
    (broken / INDEX).write_text("{}")
    with pytest.raises(DataError, match="no weight_map"):
        open_model(broken)
    (broken / INDEX).write_text('{"weight_map": {"a": "x.safetensors", "b": 3}}')
    with pytest.raises(DataError, match="1 values that are no file names: b: 3"):
        open_model(broken)


def test_a_file_that_changes_after_opening(llama: Path, tmp_path: Path) -> None:
    reader = open_model(copy(llama, tmp_path / "m"))
    info = reader.tensors["model.norm.weight"]
    info.file.unlink()
    with pytest.raises(DataError, match=r"cannot read model\.norm\.weight"):
        reader.read("model.norm.weight")


def test_an_adapter_is_no_whole_model(tmp_path: Path) -> None:
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (tmp_path / name).touch()
    with pytest.raises(DataError, match=r"is an adapter.*open_pair"):
        open_model(tmp_path)


def test_quantised_weights_are_refused(tmp_path: Path) -> None:
    config = {"quantization_config": {"quant_method": "mxfp4"}}
    with pytest.raises(UnsupportedError, match=r"quantised.*Dequantise"):
        open_model(write_raw(tmp_path / "config", {"a": torch.zeros(2)}, **config))
    with pytest.raises(UnsupportedError, match="a is stored as F8_E4M3"):
        open_model(write_raw(tmp_path / "fp8", {"a": torch.zeros(2).to(torch.float8_e4m3fn)}))


def test_a_hub_name_is_downloaded(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(find, "snapshot_download", lambda name, **patterns: str(llama))
    assert open_model("someone/llama").directory == llama


def test_the_models_of_the_embedded_world_have_names() -> None:
    assert open_model("world:base").directory == base_dir()
    with pytest.raises(ConfigurationError, match="world:teacher"):
        open_model("world:student")
