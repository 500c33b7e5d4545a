"""Setups that cannot be had here are described to the check instead."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.utils import DistributedType
from trl import DistillationTrainer

from effopd.errors import ConfigurationError, UnsupportedError
from effopd.extrapolation.checks import check_trainer, validation_rows
from effopd.extrapolation.presets import ExtrapolationConfig


class Described(DistillationTrainer):  # type: ignore[misc]
    """A trainer that has what it is given, and was never made."""

    def __init__(self, **attributes: Any) -> None:
        vars(self).update(attributes)


def described(
    distributed_type: DistributedType = DistributedType.NO,
    fsdp_version: int = 2,
    pad: int | None = 0,
    processes: int = 1,
) -> Any:
    plugin = SimpleNamespace(fsdp_version=fsdp_version)
    accelerator = SimpleNamespace(
        distributed_type=distributed_type, state=SimpleNamespace(fsdp_plugin=plugin), num_processes=processes
    )
    return Described(
        model=torch.nn.Linear(1, 1),
        args=SimpleNamespace(optim="adamw_torch"),
        accelerator=accelerator,
        _tokenizer=SimpleNamespace(pad_token_id=pad),
        train_dataset=[{"prompt": "1+1="}] * 60,
    )


def test_what_is_supported_passes() -> None:
    for kind in (DistributedType.NO, DistributedType.MULTI_GPU, DistributedType.FSDP):
        check_trainer(described(kind))


def test_what_is_not_supported_is_refused_with_a_way_on() -> None:
    with pytest.raises(UnsupportedError, match="FSDP2"):
        check_trainer(described(DistributedType.DEEPSPEED))
    with pytest.raises(UnsupportedError, match="fsdp_version: 2"):
        check_trainer(described(DistributedType.FSDP, fsdp_version=1))
    with pytest.raises(ConfigurationError, match="no padding token"):
        check_trainer(described(pad=None))
    with pytest.raises(
        ConfigurationError,
        match=r"SimpleNamespace does not sample.*works on DistillationTrainer, GRPOTrainer, RLOOTrainer",
    ):
        check_trainer(SimpleNamespace(model=torch.nn.Linear(1, 1)))
    schedule_free = described()
    schedule_free.args.optim = "schedule_free_adamw"
    with pytest.raises(UnsupportedError, match=r"schedule_free_adamw.*updates the model's weights in place"):
        check_trainer(schedule_free)


def test_fewer_prompts_than_processes_are_refused() -> None:
    config = ExtrapolationConfig(num_prompts=8)
    assert len(validation_rows(described(processes=8), None, config)) == 60
    with pytest.raises(ConfigurationError, match=r"num_prompts=8 is less than the 16 processes.*Raise num_prompts"):
        validation_rows(described(processes=16), None, config)


@pytest.mark.parametrize("name", ["tools", "environments", "rollout_func"])
def test_rollouts_that_validation_does_not_sample_are_refused(name: str) -> None:
    trainer = described()
    setattr(trainer, name, [print])
    with pytest.raises(UnsupportedError, match=f"has {name}.*another task"):
        check_trainer(trainer)


def test_images_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="validation dataset has images"):
        validation_rows(described(), [{"prompt": "?", "images": []}] * 60, ExtrapolationConfig())
