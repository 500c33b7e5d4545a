import json
import re
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from world.tiny_world import SETTINGS

from effopd.errors import ConfigurationError
from effopd.world import build, build_world


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def forbid(*args: object, **kwargs: object) -> None:
    raise AssertionError("this stage was already finished")


def test_build_writes_two_models_and_a_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = build_world(tmp_path, seed=1, **SETTINGS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "card.json", "teacher"]
    model_files = {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "training_record.json",
    }
    for name in ("base", "teacher"):
        assert set(contents(tmp_path / name)) == model_files
        model = AutoModelForCausalLM.from_pretrained(tmp_path / name)
        assert model.dtype == torch.float32
        assert model.num_parameters() == card["num_parameters"]
        assert AutoTokenizer.from_pretrained(tmp_path / name).eos_token == ";"
        assert card[name]["sampled_accuracy"]["num_examples"] == 20
    assert card == json.loads((tmp_path / "card.json").read_text())
    assert card["command"] == "effopd world build --out DIR --seed 1"
    assert str(tmp_path) not in (tmp_path / "card.json").read_text()
    assert [step for step, _ in card["teacher"]["reward_curve"]] == [1, 2]

    before = contents(tmp_path)
    monkeypatch.setattr(build, "pretrain", forbid)
    monkeypatch.setattr(build, "train_teacher", forbid)
    assert build_world(tmp_path, seed=1, **SETTINGS) == card
    assert contents(tmp_path) == before
    with pytest.raises(ConfigurationError, match=r"not built with these settings: seed 1 \(now 2\)"):
        build_world(tmp_path, seed=2, **SETTINGS)


def test_an_interrupted_build_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = build_world(tmp_path / "whole", **SETTINGS)

    def interrupt(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    out = tmp_path / "interrupted"
    with monkeypatch.context() as patch:
        patch.setattr(build, "pretrain", interrupt)
        with pytest.raises(KeyboardInterrupt):
            build_world(out, **SETTINGS)
    assert not (out / "base").exists()
    with monkeypatch.context() as patch:
        patch.setattr(build, "train_teacher", interrupt)
        with pytest.raises(KeyboardInterrupt):
            build_world(out, **SETTINGS)
    assert (out / "base").exists()
    assert not (out / "teacher").exists()
    with monkeypatch.context() as patch:
        patch.setattr(build, "pretrain", forbid)
        card = build_world(out, **SETTINGS)
    assert sorted(path.name for path in out.iterdir()) == ["base", "card.json", "teacher"]
    for name in ("base", "teacher"):
        weights = f"{name}/model.safetensors"
        assert (out / weights).read_bytes() == (tmp_path / "whole" / weights).read_bytes()
        assert card[name]["sampled_accuracy"] == whole[name]["sampled_accuracy"]


def test_teacher_checkpoints_are_kept_when_asked_for(tmp_path: Path) -> None:
    build_world(tmp_path, teacher_checkpoints=True, **SETTINGS)
    for step in (1, 2):
        AutoModelForCausalLM.from_pretrained(tmp_path / "teacher_checkpoints" / f"checkpoint-{step}")


def test_a_directory_that_is_no_world_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "mine.txt").write_text("kept")
    with pytest.raises(ConfigurationError, match=re.escape(f"{tmp_path / 'base'} was not built with these settings")):
        build_world(tmp_path, **SETTINGS)
    assert (tmp_path / "base" / "mine.txt").read_text() == "kept"


@pytest.mark.slow
def test_full_build_with_another_seed(tmp_path: Path) -> None:
    card = build_world(tmp_path, seed=1)
    assert 0.45 <= card["base"]["sampled_accuracy"]["accuracy"] <= 0.65
    assert card["teacher"]["sampled_accuracy"]["accuracy"] >= 0.97
