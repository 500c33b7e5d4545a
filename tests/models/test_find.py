"""Names become places; what reads as a path is never looked up on the hub."""

from pathlib import Path

import huggingface_hub
import pytest
from training.tiny_models import write_tiny_qwen3

from effopd.errors import ConfigurationError, DataError
from effopd.models import find
from effopd.models.find import absolute_name, find_model, find_place, local_path, model_directory
from effopd.models.load import load_model, load_tokenizer
from effopd.world import base_dir

FINDERS = [absolute_name, find_model, find_place, load_model, load_tokenizer, local_path, model_directory]


@pytest.fixture(scope="module")
def qwen3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_qwen3(tmp_path_factory.mktemp("models") / "qwen3")


@pytest.mark.parametrize("name", ["./runs/x", "a/b/c", "~/nowhere-at-all", "/no/such/model", Path("owner/model")])
@pytest.mark.parametrize("find_it", FINDERS)
def test_paths_that_do_not_exist_are_not_looked_up_on_the_hub(name: str | Path, find_it: object) -> None:
    with pytest.raises(DataError, match=f"{name}: no such file or directory"):
        find_it(name)  # type: ignore[operator]


@pytest.mark.parametrize("name", ["runs/model.json", "prompts.jsonl", "data/train.parquet"])
@pytest.mark.parametrize("find_it", FINDERS)
def test_the_name_of_a_file_of_data_is_no_hub_name(name: str, find_it: object) -> None:
    with pytest.raises(DataError, match=f"{name}: no such file or directory"):
        find_it(name)  # type: ignore[operator]


def test_a_home_directory_of_nobody_is_named() -> None:
    with pytest.raises(DataError, match="~nobody-of-that-name/model: there is no such user"):
        find_place("~nobody-of-that-name/model")


def test_a_missing_path_names_its_neighbours(qwen3: Path) -> None:
    for find_it in (find_model, model_directory):
        with pytest.raises(DataError, match=f"{qwen3.parent} has qwen3"):
            find_it(qwen3.parent / "qwen" / "final")


def test_a_file_is_no_model_but_may_be_data(qwen3: Path) -> None:
    assert local_path(qwen3 / "config.json") == qwen3 / "config.json"
    for find_it in (find_place, find_model, model_directory, absolute_name):
        with pytest.raises(DataError, match=rf"is a file; expected a model directory. Pass .*: '{qwen3}'\."):
            find_it(qwen3 / "config.json")


def test_hub_names_are_left_as_they_are_until_they_are_downloaded() -> None:
    assert local_path("someone/model") is None
    for find_it in (find_place, find_model, absolute_name):
        assert find_it("gpt2") == "gpt2"
        assert find_it("Qwen/Qwen3-1.7B-Base") == "Qwen/Qwen3-1.7B-Base"
    assert find_model("someone/model", revision="main") == "someone/model"


def test_a_directory_has_no_revision(qwen3: Path) -> None:
    with pytest.raises(ConfigurationError, match="revision: got 'main' for the directory"):
        find_model(qwen3, revision="main")


def test_the_models_of_the_embedded_world_have_names() -> None:
    assert find_model("world:base") == model_directory("world:base") == base_dir()
    assert absolute_name("world:base") == str(base_dir())
    for find_it in FINDERS:
        if find_it is not local_path:
            with pytest.raises(ConfigurationError, match=r"world:student.*use one of .*world:base.*world:teacher"):
                find_it("world:student")


def test_a_relative_path_and_a_home_directory_become_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base").mkdir()
    assert absolute_name("~/base") == absolute_name("base") == absolute_name(Path("./base")) == str(tmp_path / "base")
    assert model_directory("~/base") == tmp_path / "base"


def test_only_safetensors_and_what_goes_with_them_are_downloaded(qwen3: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(name: str, allow_patterns: list[str], ignore_patterns: list[str]) -> str:
        index = "model.safetensors.index.json"
        files = ["model.safetensors", "model-00001-of-00002.safetensors", index, "config.json", "tokenizer.json"]
        others = ["pytorch_model.bin", "original/model.safetensors", "adapter_model.bin", "consolidated.safetensors"]
        kept = huggingface_hub.utils.filter_repo_objects(
            files + others, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns
        )
        assert list(kept) == files
        return str(qwen3)

    monkeypatch.setattr(find, "snapshot_download", download)
    assert model_directory("someone/model") == qwen3


def test_a_hub_that_cannot_be_reached_while_downloading(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> str:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(find, "snapshot_download", fail)
    message = r"(?s)someone/model: .*no route to host.*no such directory here.*hf download someone/model --local-dir"
    with pytest.raises(DataError, match=message):
        model_directory("someone/model")


def test_an_unreachable_hub_is_a_data_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for find_it in (load_model, load_tokenizer, model_directory):
        with pytest.raises(DataError, match=r"no such directory here(.|\n)*hf download nobody/nothing"):
            find_it("nobody/nothing")
