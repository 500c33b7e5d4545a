"""Settings that cannot work are refused before anything is loaded."""

from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from small_runs import WORLD, world
from torch import distributed

from effopd.errors import ConfigurationError
from effopd.training import RunArguments
from effopd.training.timeout import keep_timeout


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"acceleration": "fast"}, "acceleration: got 'fast', expected one of none, paper"),
        ({"acceleration": "none", "extrapolation": {"num_prompts": 3}}, "has no effect"),
        ({"reward": []}, "validates by reward, and no reward is set"),
        ({"extrapolation": "{num_prompts: 3}"}, "is not JSON"),
        (
            {"extrapolation": {"num_prompt": 3}},
            "got the field 'num_prompt', expected one of .* Did you mean num_prompts?",
        ),
        ({"target_accuracy": 0.9}, "needs evaluation_dataset_name"),
        ({"target_accuracy": 0, "evaluation_dataset_name": "world:evaluation"}, "above 0 and at most 1"),
        (
            {"num_train_examples": 0},
            "num_train_examples: got 0, expected a finite number, at least 1. Leave it out for all.",
        ),
        ({"acceleration": "none", "reward": [], "evaluation_dataset_name": "world:evaluation"}, "no reward"),
    ],
)
def test_settings_that_cannot_work(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        RunArguments(**WORLD | changes)


def test_a_run_without_optimizer_state_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="save_only_model=True saves no optimizer state"):
        world(tmp_path / "out", save_only_model=True, save_strategy="steps")
    world(tmp_path / "out", save_only_model=True, save_strategy="no")


@pytest.mark.parametrize(
    "truncated",
    [
        {"top_p": 0.9},
        {"top_k": 50},
        {"min_p": 0.1},
        {"repetition_penalty": 1.1},
        {"generation_kwargs": {"top_p": 0.9}},
    ],
)
def test_the_sampled_estimator_needs_the_whole_distribution(truncated: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"estimator='sampled'.*biases its gradient"):
        world(tmp_path, estimator="sampled", **truncated)
    world(tmp_path, estimator="full_vocab", **truncated)
    world(tmp_path, estimator="sampled", top_p=1.0, top_k=0)


@pytest.mark.parametrize("estimator", ["sampled", "full_vocab"])
def test_a_temperature_that_the_loss_does_not_know_is_refused(estimator: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="Set the field temperature instead"):
        world(tmp_path, estimator=estimator, generation_kwargs={"temperature": 0.7})


def test_processes_on_cpus_wait_as_long_as_was_asked_for() -> None:
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        group = distributed.distributed_c10d._get_default_group()._get_backend(torch.device("cpu"))
        assert group.options._timeout == timedelta(minutes=30)
        keep_timeout(SimpleNamespace(ddp_timeout=7))  # type: ignore[arg-type]
        assert group.options._timeout == timedelta(seconds=7)
    finally:
        distributed.destroy_process_group()
