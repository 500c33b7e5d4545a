"""What verl's configuration may say, and what is refused before any process starts."""

import warnings
from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from verl_processes import needs_verl
from verl_worlds import configuration

from effopd.errors import ConfigurationError, MissingPackageError, UnsupportedError
from effopd.extrapolation import PRESETS


@pytest.fixture(scope="module")
def settings() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # verl's, about engines that are not installed
        from effopd.integrations.verl import settings
    return settings


@pytest.mark.skipif(find_spec("verl") is not None, reason="verl is installed")
def test_without_verl_there_is_one_line() -> None:
    with pytest.raises(MissingPackageError, match=r"needs verl, .*: pip install 'effopd\[verl\]'$"):
        import effopd.integrations.verl  # noqa: F401


@needs_verl
def test_settings_start_from_a_preset(settings: Any) -> None:
    assert settings.read_settings({}) == PRESETS["paper"]
    read = settings.read_settings({"preset": "reference", "scales": [2, 4], "num_prompts": 7})
    assert (read.acceptance, read.scales, read.num_prompts) == ("reference", (2, 4), 7)
    assert read.parameters == PRESETS["reference"].parameters


@needs_verl
@pytest.mark.parametrize(
    ("section", "error", "message"),
    [
        ({"preset": "adaptive"}, UnsupportedError, "effopd.validator='shared_kl'.*must be 'reward'"),
        ({"preset": "line_search"}, UnsupportedError, "effopd.validator='next_rollouts'"),
        ({"guide": "utility:1"}, UnsupportedError, "effopd.guide='utility:1'.*must be 'all'"),
        ({"random_numbers": "shared"}, UnsupportedError, "must be 'independent'"),
        ({"scale": 2}, ConfigurationError, "scale"),
    ],
)
def test_other_settings_are_refused(settings: Any, section: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        settings.read_settings(section)


@needs_verl
@pytest.mark.parametrize(
    ("place", "value", "error", "message"),
    [
        ("actor.strategy", "fsdp", UnsupportedError, "strategy='fsdp'.*Set it to 'fsdp2'"),
        ("actor.strategy", "megatron", UnsupportedError, "strategy='megatron'"),
        ("model.lora_rank", 8, UnsupportedError, "LoRA"),
        ("model.lora.rank", 8, UnsupportedError, "LoRA"),
        ("model.lora_adapter_path", "somewhere", UnsupportedError, "LoRA"),
        ("rollout.full_determinism", True, UnsupportedError, "same random seed"),
        ("rollout.val_kwargs.temperature", 0, ConfigurationError, r"\.val_kwargs\.temperature=1"),
        ("rollout.val_kwargs.top_p", 0.9, ConfigurationError, r"\.val_kwargs\.top_p=1"),
        ("rollout.val_kwargs.top_k", 20, ConfigurationError, r"\.val_kwargs\.top_k=-1"),
    ],
)
def test_what_does_not_go_with_it_is_refused(
    settings: Any, place: str, value: Any, error: type[Exception], message: str
) -> None:
    config = deepcopy(configuration(Path("world"), Path("run")))
    settings.check_supported(config)
    *folders, name = ["actor_rollout_ref", *place.split(".")]
    part = config
    for folder in folders:
        part = part[folder]
    part[name] = value
    with pytest.raises(error, match=message):
        settings.check_supported(config)
