"""Setups that cannot be had here are described to the check instead."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.utils import DistributedType, ParallelismConfig
from trl import DistillationTrainer

from effopd.errors import ConfigurationError, UnsupportedError
from effopd.extrapolation import deepspeed_checks
from effopd.extrapolation.checks import check_prompts, check_trainer, validation_rows
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
    deepspeed: Any = None,
    mixed_precision: str = "no",
    parallelism: Any = None,
) -> Any:
    state = SimpleNamespace(
        fsdp_plugin=SimpleNamespace(fsdp_version=fsdp_version),
        deepspeed_plugin=SimpleNamespace(deepspeed_config=deepspeed),
    )
    accelerator = SimpleNamespace(
        distributed_type=distributed_type,
        state=state,
        num_processes=processes,
        mixed_precision=mixed_precision,
        parallelism_config=parallelism,
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
        check_trainer(described(kind, parallelism=ParallelismConfig(dp_shard_size=2)))


def test_what_is_not_supported_is_refused_with_a_way_on() -> None:
    with pytest.raises(UnsupportedError, match=r"one flat tensor.*fsdp_version: 2"):
        check_trainer(described(DistributedType.FSDP, fsdp_version=1))
    with pytest.raises(UnsupportedError, match=r"tp_size > 1.*Use FSDP2 alone"):
        check_trainer(described(DistributedType.FSDP, parallelism=ParallelismConfig(dp_shard_size=2, tp_size=2)))
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
    at_any_moment = described()
    at_any_moment.args.enable_jit_checkpoint = True
    with pytest.raises(UnsupportedError, match="enable_jit_checkpoint=True saves in the middle of a step"):
        check_trainer(at_any_moment)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize(
    ("config", "zero", "message"),
    [
        ({"fp16": {"enabled": True}}, {}, "fp16 .* Set bf16 instead"),
        (
            {},
            {"offload_optimizer": {"device": "nvme", "nvme_path": "/"}},
            "offload_optimizer to nvme keeps the masters in files.*to cpu",
        ),
        ({}, {"offload_param": {"device": "cpu"}}, "offload_param to cpu .* Leave it out"),
        ({}, {"mics_shard_size": 2, "zero_quantized_weights": True}, "mics_shard_size, zero_quantized_weights was not"),
        ({}, {"offload_optimizer": {"device": "cpu", "ratio": 0.5}}, r"offload_optimizer\.ratio was not tested"),
        ({"tensor_parallel": {"autotp_size": 2}}, {}, "tensor_parallel was not tested"),
    ],
)
def test_settings_of_deepspeed_are_refused(
    stage: int, config: dict[str, Any], zero: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deepspeed_checks, "version", lambda name: "0.19.8")
    trainer = described(DistributedType.DEEPSPEED, deepspeed=config | {"zero_optimization": zero | {"stage": stage}})
    with pytest.raises(UnsupportedError, match=f"DeepSpeed: {message}"):
        check_trainer(trainer)


def test_what_deepspeed_can_do_at_which_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    def check(stage: int, precision: str = "no", installed: str = "0.19.0", **zero: Any) -> None:
        monkeypatch.setattr(deepspeed_checks, "version", lambda name: installed)
        config = {"zero_optimization": {"stage": stage, **zero}}
        check_trainer(described(DistributedType.DEEPSPEED, deepspeed=config, mixed_precision=precision))

    for stage in (1, 2, 3):
        check(stage, "bf16", offload_optimizer={"device": "cpu"}, offload_param={"device": "none"})
    check(0)
    check(3, round_robin_gradients=True)  # stage 3 does not read it
    with pytest.raises(UnsupportedError, match=r"stage 0 has no float32 masters.*Set stage to 1"):
        check(0, "bf16")
    with pytest.raises(UnsupportedError, match=r"round_robin_gradients.*wrong\. Leave it out"):
        check(2, round_robin_gradients=True)
    with pytest.raises(UnsupportedError, match="fp16"):
        check(2, "fp16")
    with pytest.raises(UnsupportedError, match=r"DeepSpeed 0\.18\.2 is installed.*version 0\.19: pip install"):
        check(2, installed="0.18.2")


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


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"answer": "2"}, "row 1 of those checked has the columns answer; expected, as in row 0, prompt, answer"),
        ({"prompt": "1+1="}, "row 1 of those checked has the columns prompt; expected"),
        ({"prompt": [{"role": "user", "content": "1"}], "answer": "2"}, r"row 1 of those checked is \[.*expected text"),
        ({"prompt": "", "answer": "2"}, "row 1 of those checked is ''; expected text"),
    ],
)
def test_rows_that_are_not_like_the_first_are_refused(row: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        check_prompts(described(), [{"prompt": "1+1=", "answer": "2"}, row])
