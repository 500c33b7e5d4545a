"""A written model loads in transformers, and a failure leaves nothing."""

import errno
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from effopd.checkpoints import open_model, open_pair, write_model, writer
from effopd.errors import DataError


def stored(directory: Path) -> Iterator[tuple[str, torch.Tensor]]:
    reader = open_model(directory)
    return ((name, reader.read(name)) for name in reader.tensors)


def load(directory: Path) -> dict[str, torch.Tensor]:
    model, info = AutoModelForCausalLM.from_pretrained(directory, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    return dict(model.state_dict())


@pytest.mark.parametrize("max_shard_bytes", [10**9, 20_000, 1])
def test_a_copy_loads_the_same(llama: Path, tmp_path: Path, max_shard_bytes: int) -> None:
    out = write_model(tmp_path / "out", stored(llama), llama, max_shard_bytes)
    files = {info.file for info in open_model(out).tensors.values()}
    assert files == set(out.glob("*.safetensors"))
    tensor_bytes = [tensor.nbytes for _, tensor in stored(llama)]
    if max_shard_bytes == 20_000:
        assert max(tensor_bytes) < 20_000
        assert all(sum(tensor.nbytes for tensor in load_file(file).values()) <= 20_000 for file in files)
        assert 1 < len(files) < len(tensor_bytes)
    else:
        assert len(files) == {10**9: 1, 1: len(tensor_bytes)}[max_shard_bytes]
    copied, original = load(out), load(llama)
    assert all(torch.equal(copied[name], tensor) for name, tensor in original.items())
    assert AutoTokenizer.from_pretrained(out).get_vocab() == AutoTokenizer.from_pretrained(llama).get_vocab()
    assert {path.name for path in tmp_path.iterdir()} == {"out"}


def test_the_dtype_written_becomes_that_of_the_config(qwen3: Path, tmp_path: Path) -> None:
    pair = open_pair(qwen3, qwen3)
    ones = ((name, pair.base.read(name).float() + pair.delta(name).float() + 1) for name in pair.names)
    loaded = load(write_model(tmp_path / "out", ones, qwen3))
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "float32"
    for name in pair.names:
        assert loaded[name].dtype == torch.float32
        assert torch.equal(loaded[name], pair.base.read(name).float() + 1)


def test_the_dtype_written_becomes_that_of_the_parts_of_a_config(qwen3: Path, tmp_path: Path) -> None:
    """The language model of a model with several modalities is made from its own part of the config."""
    like = shutil.copytree(qwen3, tmp_path / "like")
    config = json.loads((like / "config.json").read_text())
    parts = {"text_config": {"dtype": "bfloat16"}, "vision_config": {"torch_dtype": "bfloat16"}, "other": {"a": 1}}
    (like / "config.json").write_text(json.dumps(config | parts))
    out = write_model(tmp_path / "out", ((name, tensor.float()) for name, tensor in stored(like)), like)
    written = json.loads((out / "config.json").read_text())
    assert [written[part] for part in parts] == [{"dtype": "float32"}, {"dtype": "float32"}, {"a": 1}]


@pytest.mark.parametrize("kind", ["link", "here"])
def test_an_empty_directory_is_filled_however_it_is_named(
    kind: str, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("empty")
    monkeypatch.chdir(tmp_path / "empty")
    write_model({"link": "../link", "here": "."}[kind], stored(llama), llama)
    assert load(tmp_path / "empty").keys() == load(llama).keys()
    assert (tmp_path / "link").is_symlink()


def test_a_directory_where_a_disk_is_mounted_is_refused(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "is_mount", lambda path: path == tmp_path)
    with pytest.raises(DataError, match=r"is where a disk is mounted, which cannot be replaced.*one inside it"):
        write_model(tmp_path, stored(llama), llama)


def test_an_existing_directory_is_kept(llama: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    write_model(tmp_path / "empty", stored(llama), llama)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match="exists and is not empty"):
        write_model(tmp_path / "full", stored(llama), llama)
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[:-2], r"2 of the \d+ tensors of .* were not given"),
        (lambda rows: [*rows, rows[0]], "given twice"),
        (lambda rows: [("other.weight", rows[0][1])], "is no tensor of"),
        (lambda rows: [(rows[0][0], rows[0][1][1:])], "has the shape"),
    ],
)
def test_wrong_tensors_leave_nothing(llama: Path, tmp_path: Path, change: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        write_model(tmp_path / "out", change(list(stored(llama))), llama, 1)
    assert not list(tmp_path.iterdir())


def test_an_interruption_leaves_nothing(llama: Path, tmp_path: Path) -> None:
    def interrupted() -> Iterator[tuple[str, torch.Tensor]]:
        yield next(stored(llama))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_model(tmp_path / "out", interrupted(), llama, 1)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_an_error_of_the_system_and_leaves_nothing(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(writer, "save_file", full)
    with pytest.raises(OSError, match=r"No space left on device: .*0\.safetensors") as caught:
        write_model(tmp_path / "out", stored(llama), llama)
    assert caught.value.errno == errno.ENOSPC
    assert not list(tmp_path.iterdir())


def test_views_and_aliases_are_written(llama: Path, tmp_path: Path) -> None:
    same = torch.ones(open_model(llama).shapes["lm_head.weight"], dtype=torch.bfloat16)
    rows = ((name, same.T.contiguous().T if tensor.shape == same.shape else tensor) for name, tensor in stored(llama))
    loaded = load(write_model(tmp_path / "out", rows, llama))
    assert torch.equal(loaded["lm_head.weight"], same)
    assert torch.equal(loaded["model.embed_tokens.weight"], same)
