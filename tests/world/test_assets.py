import math
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from effopd import world
from effopd.errors import DataError
from effopd.world import assets

SHIPPED = ("style", "facts", "sibling", "certain")


@pytest.mark.parametrize("world_name", SHIPPED)
@pytest.mark.parametrize(("name", "folder"), [("base", world.base_dir), ("teacher", world.teacher_dir)])
def test_shipped_models_have_the_cards_accuracies(name: str, folder: object, world_name: str) -> None:
    path: Path = folder(world_name)  # type: ignore[operator]
    model = AutoModelForCausalLM.from_pretrained(path)
    assert model.dtype == torch.float32
    card = world.card(world_name)
    assert model.num_parameters() == card["num_parameters"]
    dataset = world.make_dataset("evaluation", 1000, seed=1234, config=world.task_config(world_name))
    state = torch.get_rng_state()
    measured = world.measure_accuracy(model, AutoTokenizer.from_pretrained(path), dataset, seed=4321)
    assert torch.equal(torch.get_rng_state(), state)
    expected = card[name]["sampled_accuracy"]
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


@pytest.mark.parametrize("name", ["facts", "sibling"])
def test_worlds_of_facts_have_many_dimensions_and_a_good_teacher(name: str) -> None:
    card = world.card(name)
    assert 0.2 <= card["base"]["sampled_accuracy"]["accuracy"] <= 0.7
    assert card["teacher"]["sampled_accuracy"]["accuracy"] >= 0.9
    assert card["measures"]["concentration"]["largest_share_in_one"] < 0.5
    assert world.card("style")["measures"]["concentration"]["largest_share_in_one"] > 0.9


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_worlds_were_built_as_their_names_say(name: str) -> None:
    built, settings = world.card(name)["settings"], world.WORLDS[name]
    assert world.TaskConfig(**built["task"]) == settings.task
    assert built["seed"] == settings.seed
    assert type(settings.teacher)(**_with_parts(built["teacher"])) == settings.teacher
    for part in ("model_size", "pretraining"):
        assert built[part] == asdict(getattr(settings, part))


def _with_parts(settings: dict[str, Any]) -> dict[str, Any]:
    parts = {"model_size": world.ModelSize, "pretraining": world.PretrainingConfig}
    return {name: parts[name](**value) if name in parts else value for name, value in settings.items()}


def test_only_what_is_needed_is_shipped() -> None:
    files = [file for file in world.base_dir().parent.rglob("*") if file.is_file()]
    assert {file.suffix for file in files} == {".json", ".safetensors"}
    assert sum(file.stat().st_size for file in files) < 8_000_000 * len(SHIPPED)


def test_missing_assets_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assets, "_ASSETS", tmp_path)
    with pytest.raises(DataError, match="effopd world build"):
        world.base_dir()


def test_using_the_world_does_not_import_trl() -> None:
    code = "import sys; from effopd import world; world.card(); assert 'trl' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
