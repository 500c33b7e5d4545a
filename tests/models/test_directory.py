"""What a directory holds is told by its files, and the same for those that load it and those that read it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from effopd.checkpoints import find_checkpoints, open_model
from effopd.errors import DataError
from effopd.models.directory import check_loadable, check_whole_model, weights_kind
from effopd.models.find import find_model

MODEL = ["config.json", "model.safetensors"]
ADAPTER = ["adapter_config.json", "adapter_model.safetensors"]


def made(directory: Path, names: list[str]) -> Path:
    directory.mkdir(exist_ok=True)
    for name in names:
        (directory / name).touch()
    return directory


@pytest.mark.parametrize("weights", ["model.safetensors", "model.safetensors.index.json"])
def test_a_model_and_an_adapter_are_told_apart(tmp_path: Path, weights: str) -> None:
    model, adapter = made(tmp_path / "model", ["config.json", weights]), made(tmp_path / "adapter", ADAPTER)
    assert (weights_kind(model), weights_kind(adapter)) == ("model", "adapter")
    check_whole_model(model)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["config.json", "pytorch_model.bin"], "(?s)weights are pickles.*AutoModelForCausalLM.*use_safetensors=False"),
        (["adapter_config.json", "adapter_model.bin"], "(?s)weights are pickles.*AutoPeftModelForCausalLM"),
        (["config.json", "pytorch_model_fsdp_0"], "shards of a distributed run.*accelerate merge-weights"),
        (["config.json", "global_step10", "optimizer.bin"], "shards of a distributed run.*zero_to_fp32"),
        (["config.json", "optimizer.pt", "training_args.bin"], "not a model directory.*interrupted"),
        (["model.safetensors"], r"expected config\.json with"),
        ([], "found nothing"),
        (MODEL + ADAPTER, "both a model and an adapter"),
    ],
)
@pytest.mark.parametrize("look", [weights_kind, check_whole_model, check_loadable, find_model, open_model])
def test_directories_that_hold_something_else(
    tmp_path: Path, look: Callable[[Path], object], names: list[str], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        look(made(tmp_path, names))


@pytest.mark.parametrize("names", [ADAPTER, ["config.json", *ADAPTER]])
@pytest.mark.parametrize("look", [check_whole_model, check_loadable, find_model, open_model])
def test_an_adapter_is_no_whole_model(tmp_path: Path, look: Callable[[Path], object], names: list[str]) -> None:
    with pytest.raises(DataError, match=r"is an adapter; expected a whole model.*merge_and_unload.*open_pair"):
        look(made(tmp_path, names))


def test_weights_of_another_name_can_be_loaded_but_not_read(tmp_path: Path) -> None:
    directory = made(tmp_path, ["config.json", "model.fp16.safetensors"])
    assert find_model(directory) == directory
    for look in (open_model, find_checkpoints):
        with pytest.raises(DataError, match=r"not a model directory.*found config\.json, model\.fp16\.safetensors"):
            look(directory)
