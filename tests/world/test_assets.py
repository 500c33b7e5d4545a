import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from effopd import world
from effopd.errors import DataError
from effopd.world import assets


@pytest.mark.parametrize(("name", "folder"), [("base", world.base_dir), ("teacher", world.teacher_dir)])
def test_shipped_models_have_the_cards_accuracies(name: str, folder: object) -> None:
    path: Path = folder()  # type: ignore[operator]
    model = AutoModelForCausalLM.from_pretrained(path)
    assert model.dtype == torch.float32
    assert model.num_parameters() == world.card()["num_parameters"]
    dataset = world.make_dataset("evaluation", 1000, seed=1234)
    state = torch.get_rng_state()
    measured = world.measure_accuracy(model, AutoTokenizer.from_pretrained(path), dataset, seed=4321)
    assert torch.equal(torch.get_rng_state(), state)
    expected = world.card()[name]["sampled_accuracy"]
    assert_within_four_standard_errors(measured["accuracy"], expected["accuracy"], measured["num_examples"])
    for style, found in measured["by_style"].items():
        assert_within_four_standard_errors(found["share"], expected["by_style"][style]["share"], 1000)
        if found["num_examples"] >= 100:
            accuracy = expected["by_style"][style]["accuracy"]
            assert_within_four_standard_errors(found["accuracy"], accuracy, found["num_examples"])


def assert_within_four_standard_errors(measured: float, expected: float, num_examples: int) -> None:
    rate = min(max(expected, 0.005), 0.995)  # so that a rate of exactly 0 or 1 has an error too
    assert abs(measured - expected) <= 4 * math.sqrt(rate * (1 - rate) / num_examples)


def test_base_and_teacher_are_what_the_world_promises() -> None:
    card = world.card()
    base, teacher = card["base"]["sampled_accuracy"], card["teacher"]["sampled_accuracy"]
    assert 0.45 <= base["accuracy"] <= 0.65
    assert base["by_style"]["step_by_step"]["accuracy"] >= 0.85
    assert base["by_style"]["direct"]["accuracy"] <= 0.4
    assert teacher["accuracy"] >= 0.97
    assert card["settings"]["seed"] == 0


def test_only_what_is_needed_is_shipped() -> None:
    files = [file for file in world.base_dir().parent.rglob("*") if file.is_file()]
    assert {file.suffix for file in files} == {".json", ".safetensors"}
    assert sum(file.stat().st_size for file in files) < 8_000_000


def test_missing_assets_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assets, "_ASSETS", tmp_path)
    with pytest.raises(DataError, match="effopd world build"):
        world.base_dir()


def test_using_the_world_does_not_import_trl() -> None:
    code = "import sys; from effopd import world; world.card(); assert 'trl' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
