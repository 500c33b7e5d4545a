"""Worlds by name: their settings, where they are looked for, and how they are built."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM
from world.tiny_world import PRETRAINING, SETTINGS, SIBLING, SIZE

from effopd.errors import ConfigurationError, DataError
from effopd.world import (
    WORLDS,
    TaskConfig,
    WorldSettings,
    base_dir,
    build,
    build_named_world,
    build_world,
    card,
    measure_world,
    model_path,
    split_name,
    task_config,
    teacher_dir,
)
from effopd.world.assets import cache_dir

TINY = WorldSettings(
    task=TaskConfig(num_operations=4, second_skill="sorting", second_skill_share=0.25),
    model_size=SIZE,
    pretraining=PRETRAINING,
    teacher=SIBLING,
    seed=3,
)


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A world named `tiny`, which is not built, and an empty place to build it in."""
    monkeypatch.setitem(WORLDS, "tiny", TINY)
    monkeypatch.setenv("EFFOPD_HOME", str(tmp_path))

    def build_small(out: Path, **settings: Any) -> Any:
        return build_world(out, **settings, num_evaluation_examples=20, use_cpu=True)

    monkeypatch.setattr(build, "build_world", build_small)
    monkeypatch.setattr(build, "measure_world", lambda out: measure_world(out, num_examples=20, lanczos_steps=60))
    return tmp_path / "worlds" / "tiny"


def test_names_are_split() -> None:
    assert split_name("world") == ("style", "")
    assert split_name("world:base") == ("style", "base")
    assert split_name("world:facts/train") == ("facts", "train")
    with pytest.raises(ConfigurationError, match="world: got 'nowhere', expected one of style, facts"):
        split_name("world:nowhere/base")
    with pytest.raises(ConfigurationError, match="world: got 'nowhere'"):
        task_config("nowhere")


def test_the_shipped_world_is_the_default() -> None:
    assert WORLDS["style"] == WorldSettings()
    assert task_config() == TaskConfig()
    assert model_path("world:style/base") == model_path("world:base") == str(base_dir("style"))
    assert model_path("some/model") == "some/model"


def test_a_world_that_is_not_built_names_the_command(tiny: Path) -> None:
    for find in (base_dir, teacher_dir, card):
        with pytest.raises(DataError, match="Build it with `effopd world build --name tiny`"):
            find("tiny")
    with pytest.raises(ConfigurationError, match=r"use one of .*where WORLD is one of .*tiny"):
        model_path("world:tiny/student")


def test_a_world_of_the_package_is_not_built_where_nobody_looks_for_it() -> None:
    for name in ("style", "facts"):
        with pytest.raises(ConfigurationError, match=f"The world '{name}' comes with the package.* pass --out DIR"):
            build_named_world(name)


def test_a_named_world_is_built_once_and_found(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = build_named_world("tiny")
    assert built == card("tiny")
    assert built["command"] == "effopd world build --name tiny"
    assert cache_dir("tiny") == tiny
    assert model_path("world:tiny/base") == str(base_dir("tiny")) == str(tiny / "base")
    assert teacher_dir("tiny") == tiny / "teacher"
    teacher = AutoModelForCausalLM.from_pretrained(teacher_dir("tiny"))
    assert teacher.num_parameters() == built["teacher"]["num_parameters"] < built["num_parameters"]
    assert [step for step, _ in built["teacher"]["loss_curve"]] == [1, 2, 3]
    measures = built["measures"]
    assert measures["kl_base_to_teacher"]["nats_per_completion"] > 0
    assert measures["second_skill"]["skill"] == "sorting"
    assert measures["second_skill"]["base"]["kl_to_base"]["nats_per_token"] == 0
    assert measures["second_skill"]["teacher"]["kl_to_base"]["nats_per_token"] > 0
    assert measures["concentration"]["num_steps"] == 60

    def forbid(*args: object, **kwargs: object) -> None:
        raise AssertionError("this was already done")

    for name in ("pretrain", "train_sibling", "measure_world"):
        monkeypatch.setattr(build, name, forbid)
    assert build_named_world("tiny") == built


def test_grpo_may_start_from_a_twin_of_the_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the base's own reliability, the twin is the base; with another one, it is not."""
    started: list[torch.Tensor] = []

    def note_start(model: Any, *args: Any, **kwargs: Any) -> list[float]:
        started.append(model.lm_head.weight.detach().clone())
        return [0.0]

    monkeypatch.setattr(build, "train_teacher", note_start)
    task = TaskConfig(num_operations=2, num_unsure_facts=300, fact_reliability=0.0)
    for reliability in (None, 0.0, 1.0):
        teacher = replace(SETTINGS["teacher"], twin_reliability=reliability)
        build_world(tmp_path / str(reliability), **SETTINGS | {"config": task, "teacher": teacher})
    assert torch.equal(started[0], started[1])
    assert not torch.equal(started[0], started[2])


def test_measures_of_other_models_are_not_kept(tmp_path: Path) -> None:
    build_world(tmp_path, seed=1, **SETTINGS)
    assert "measures" in measure_world(tmp_path, num_examples=20, lanczos_steps=50)
    assert "measures" in build_world(tmp_path, seed=1, **SETTINGS)
    for stage in ("base", "teacher"):
        (tmp_path / stage).rename(tmp_path / f"old_{stage}")
    assert "measures" not in build_world(tmp_path, seed=2, **SETTINGS)


def test_a_sibling_learns_right_facts_from_another_seed(tmp_path: Path) -> None:
    task = TaskConfig(num_operations=2, num_unsure_facts=300, fact_reliability=0.0)
    settings = SETTINGS | {"config": task, "teacher": replace(SIBLING, model_size=SIZE)}
    build_world(tmp_path / "unsure", **settings)
    build_world(tmp_path / "sure", **settings | {"config": TaskConfig(num_operations=2)})
    unsure, sure = (
        {
            stage: AutoModelForCausalLM.from_pretrained(tmp_path / name / stage).state_dict()
            for stage in ("base", "teacher")
        }
        for name in ("unsure", "sure")
    )
    weight = "lm_head.weight"
    assert torch.equal(unsure["teacher"][weight], sure["teacher"][weight])
    assert not torch.equal(unsure["base"][weight], sure["base"][weight])
    assert not torch.equal(sure["base"][weight], sure["teacher"][weight])
    with pytest.raises(ConfigurationError, match="a sibling has none"):
        build_world(tmp_path / "kept", teacher_checkpoints=True, **settings)
