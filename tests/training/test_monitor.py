"""The update monitor against plain arithmetic on the weights it saw, on every kind of trainer."""

import json
import logging
import math
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.utils import DistributedType
from peft import LoraConfig, get_peft_model
from run_monitor import monitored, plain_trainer, read_rows, run_scripted
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny import assert_same, distillation_trainer, tiny_model, weights
from torchrun import torchrun
from transformers import TrainerCallback

from effopd import UpdateMonitorCallback
from effopd.errors import CheckpointError, ConfigurationError, UnsupportedError
from effopd.parameters import locate
from effopd.training import OPDConfig, RunArguments, train
from effopd.training.update_sample import choose_matrices

STATE = Path("effopd") / "monitor.safetensors"


class Observer(TrainerCallback):
    """Copies the weights before training and after every step; may interrupt."""

    def __init__(self, trainer: Any, stop_after: int | None = None) -> None:
        self.trainer = trainer
        self.stop_after = stop_after
        self.seen: dict[int, dict[str, torch.Tensor]] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.seen[0] = weights(self.trainer)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.seen[state.global_step] = weights(self.trainer)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.stop_after:
            raise KeyboardInterrupt


def difference(new: dict[str, torch.Tensor], old: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: new[name].double() - old[name].double() for name in new}


def flat(tensors: dict[str, torch.Tensor], names: list[str]) -> torch.Tensor:
    return torch.cat([tensors[name].flatten() for name in names])


def numbers(row: dict[str, Any]) -> dict[str, Any]:
    """The numbers of a row, without its nesting."""
    flattened: dict[str, Any] = {}
    for key, value in row.items():
        inner = numbers(value) if isinstance(value, dict) else {"": value}
        flattened |= {f"{key} {rest}": number for rest, number in inner.items() if number is not None}
    return flattened


def by_svd(update: torch.Tensor) -> tuple[float, float]:
    """Effective rank and top-1 % ratio of a matrix of full rank, from the definition."""
    sigma = torch.linalg.svdvals(update)
    p = sigma / sigma.sum()
    top = sigma[: math.ceil(len(sigma) / 100)]
    return math.exp(-float((p * p.log()).sum())), float((top.square().sum() / sigma.square().sum()).sqrt())


def test_values_are_those_of_a_plain_computation(tmp_path: Path) -> None:
    trainer = plain_trainer(tmp_path)
    observer = Observer(trainer)
    trainer.add_callback(observer)
    monitor = monitored(trainer, num_matrices=5)
    trainer.train()
    header, *measured = read_rows(tmp_path)
    assert header["norms_of"] == "all"
    assert header["num_candidates"] == 14
    assert header["sampled"] == monitor.sampled == list(measured[0]["matrices"])
    assert [(row["previous_step"], row["step"], row["next_step"]) for row in measured] == [
        (0, 2, 4),
        (2, 4, 6),
        (4, 6, 8),
    ]
    assert {locate(name).kind for name in monitor.sampled} == {"attention", "mlp"}
    for row in measured:
        update = difference(observer.seen[row["step"]], observer.seen[0])
        for kind, norm in row["update_norm"].items():
            names = [name for name in update if kind in ("total", locate(name).kind)]
            assert norm == pytest.approx(float(flat(update, names).norm()), rel=1e-12)
        for name, values in row["matrices"].items():
            expected = (float(update[name].norm()), *by_svd(update[name]))
            assert tuple(values.values()) == pytest.approx(expected, rel=1e-6)
        for metric in ("effective_rank", "top1pct_norm_ratio"):
            for kind, mean in row[metric].items():
                of = [values[metric] for name, values in row["matrices"].items() if kind in ("mean", locate(name).kind)]
                assert mean == pytest.approx(sum(of) / len(of))
    assert measured[0]["displacement_alignment"] is None
    for earlier, row in pairwise(measured):
        times = earlier["previous_step"], earlier["step"], row["step"]
        first, second, third = (flat(observer.seen[time], monitor.sampled).double() for time in times)
        cosine = torch.cosine_similarity(third - second, second - first, dim=0)
        assert row["displacement_alignment"] == pytest.approx(float(cosine), rel=1e-9)
    assert monitor.last is not None
    assert monitor.last["step"] == 6
    assert monitor.seconds > monitor.last["seconds"] > 0


def test_a_resumed_run_writes_what_a_whole_one_does(tmp_path: Path) -> None:
    saving = {"save_strategy": "steps", "save_steps": 3, "max_steps": 8}
    whole = plain_trainer(tmp_path / "whole", **saving)
    monitored(whole)
    whole.train()
    cut = plain_trainer(tmp_path / "cut", **saving)
    monitored(cut)
    cut.add_callback(Observer(cut, stop_after=5))
    with pytest.raises(KeyboardInterrupt):
        cut.train()
    assert [row["step"] for row in read_rows(tmp_path / "cut")] == [0, 2, 4]
    again = plain_trainer(tmp_path / "cut", tiny_model(7), **saving)
    monitored(again)
    again.train(resume_from_checkpoint=str(tmp_path / "cut" / "checkpoint-3"))
    assert_same(weights(whole), weights(again))
    assert read_rows(tmp_path / "cut") == read_rows(tmp_path / "whole")
    assert [row["step"] for row in read_rows(tmp_path / "cut")] == [0, 2, 4, 6, 8]
    fresh = plain_trainer(tmp_path / "cut", max_steps=1)
    monitored(fresh)
    fresh.train()
    assert [row["step"] for row in read_rows(tmp_path / "cut")] == [0]


def test_checkpoints_without_usable_state(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trainer = plain_trainer(tmp_path, save_strategy="steps", save_steps=3)
    monitored(trainer)
    trainer.train()
    checkpoint = str(tmp_path / "checkpoint-3")

    def resume(out: Path, **settings: Any) -> list[dict[str, Any]]:
        trainer = plain_trainer(out)
        monitored(trainer, **settings)
        trainer.train(resume_from_checkpoint=checkpoint)
        return read_rows(out)

    with pytest.raises(CheckpointError, match="is of other weights"):
        resume(tmp_path, num_matrices=3)
    (tmp_path / "checkpoint-3" / STATE).write_bytes(b"cut short")
    with pytest.raises(CheckpointError, match="cannot be read"):
        resume(tmp_path)
    (tmp_path / "checkpoint-3" / STATE).unlink()
    rows = resume(tmp_path)
    assert "is measured from step 3 on" in caplog.text
    assert [row["step"] for row in rows] == [0, 2, 3, 4, 6]
    assert rows[2]["sampled"] == rows[0]["sampled"]
    assert (rows[3]["previous_step"], rows[3]["displacement_alignment"]) == (3, None)


def test_trl_training_is_not_touched(tmp_path: Path) -> None:
    plain = distillation_trainer(tmp_path / "plain", max_steps=4, logging_steps=2)
    plain.train()
    watched = distillation_trainer(tmp_path / "watched", max_steps=4, logging_steps=2)
    monitored(watched, every=1)
    watched.train()
    assert_same(weights(plain), weights(watched))
    assert len(read_rows(tmp_path / "watched")) == 5
    ours = [entry for entry in watched.state.log_history if "update_norm/total" in entry]
    theirs = [entry for entry in watched.state.log_history if entry not in ours]
    assert [entry["step"] for entry in ours] == [1, 2, 3, 4]
    timed = ("train_runtime", "train_samples_per_second", "train_steps_per_second")
    for left, right in zip(plain.state.log_history, theirs, strict=True):
        assert left.keys() == right.keys()
        assert all(left[key] == right[key] for key in left if key not in timed and "time" not in key)


def test_tensorboard_has_every_measurement_under_its_step(tmp_path: Path) -> None:
    trainer = plain_trainer(tmp_path, report_to="tensorboard", logging_steps=3)
    monitored(trainer)
    trainer.train()
    (events,) = tmp_path.rglob("events.out.tfevents.*")
    log = EventAccumulator(str(events)).Reload()
    rows = read_rows(tmp_path)[1:]
    for tag, values in {
        "update_norm/total": [row["update_norm"]["total"] for row in rows],
        "update_norm/mlp": [row["update_norm"]["mlp"] for row in rows],
        "effective_rank/attention": [row["effective_rank"]["attention"] for row in rows],
        "top1pct_norm_ratio/mean": [row["top1pct_norm_ratio"]["mean"] for row in rows],
        "displacement_alignment": [row["displacement_alignment"] for row in rows],
    }.items():
        expected = [(row["step"], value) for row, value in zip(rows, values, strict=True) if value is not None]
        scalars = log.Scalars(f"train/{tag}")
        assert [scalar.step for scalar in scalars] == [step for step, _ in expected]
        assert [scalar.value for scalar in scalars] == pytest.approx([value for _, value in expected], rel=1e-6)
    assert [scalar.step for scalar in log.Scalars("train/loss")] == [3, 6]


def test_a_run_directory_has_it(tmp_path: Path) -> None:
    world = {"model_name_or_path": "world:base", "dataset_name": "world:train", "num_train_examples": 64}
    config = OPDConfig(
        output_dir=str(tmp_path), teacher_model_name_or_path="world:teacher", per_device_train_batch_size=4,
        max_steps=2, bf16=False, gradient_checkpointing=False, max_completion_length=4, report_to="none",
        disable_tqdm=True, use_cpu=True, save_strategy="no", learning_rate=1e-4,
    )  # fmt: skip
    train(RunArguments(**world, acceleration="none", monitor_every=1, monitor_matrices=2), config)
    header, first, *_ = read_rows(tmp_path)
    assert header["num_candidates"] == 28
    assert len(header["sampled"]) == len(first["matrices"]) == 2
    for wrong, message in [
        ({"monitor_every": 0}, "monitor_every: got 0, expected"),
        ({"monitor_every": 2, "monitor_matrices": 0}, "monitor_matrices: got 0, expected"),
        ({"monitor_matrices": 2}, "set monitor_every too"),
    ]:
        with pytest.raises(ConfigurationError, match=message):
            RunArguments(**world, acceleration="none", **wrong)


def test_norms_are_of_the_sample_where_copies_of_all_do_not_fit(tmp_path: Path) -> None:
    trainer = plain_trainer(tmp_path, max_steps=2)
    size = 4 * 32 * 32  # bytes of an attention matrix
    monitor = monitored(trainer, num_matrices=8, max_bytes=3 * 9 * size)
    trainer.train()
    header, row = read_rows(tmp_path)
    assert header["norms_of"] == "sample"
    assert len(header["sampled"]) == 6  # 3 of each kind: 3 + 3 * 2 times the size
    assert header["bytes"] == 3 * 9 * size
    assert "update_norm" not in row
    assert row["sampled_update_norm"].keys() == {"attention", "mlp", "total"}
    squares = [values["update_norm"] ** 2 for values in row["matrices"].values()]
    assert row["sampled_update_norm"]["total"] == pytest.approx(math.sqrt(sum(squares)))
    assert any("sampled_update_norm/total" in entry for entry in trainer.state.log_history)
    assert monitor.last is not None


def test_the_sample_is_spread_over_depth_and_kinds() -> None:
    modules = ("self_attn.q_proj", "self_attn.k_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
    names = [f"model.layers.{layer}.{module}.weight" for layer in range(9) for module in modules]
    parameters = {name: torch.empty(4, 4, dtype=torch.bfloat16) for name in names}

    def layers(count: int, max_bytes: int = 10**6) -> list[tuple[int | None, str]]:
        chosen = choose_matrices(names, parameters, count, max_bytes)
        return [locate(name)[::2] for name in chosen]

    assert layers(6) == [(0, "attention"), (0, "mlp"), (4, "attention"), (4, "mlp"), (8, "attention"), (8, "mlp")]
    assert len(layers(40)) == 40
    assert layers(40).count((0, "attention")) == 2  # all 18 of attention, 22 of the 27 of mlp
    assert len(layers(1000)) == 45
    assert len(layers(1)) == 1
    assert len(layers(10, max_bytes=7 * 32)) == 7
    with pytest.raises(ConfigurationError, match="raise `max_bytes`"):
        layers(10, max_bytes=31)


def test_measurements_that_take_long_are_put_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(10**6))
    trainer = plain_trainer(tmp_path, max_steps=12)
    monitor = monitored(trainer, every=2, max_share=0.5)
    # Every look at the clock takes a second: a step takes one, and so does a measurement.
    monkeypatch.setattr("effopd.training.monitor.time", SimpleNamespace(perf_counter=lambda: next(clock)))
    monitor.max_share = 0.2
    trainer.train()
    lines = [json.loads(line) for line in (tmp_path / "updates.jsonl").read_text().splitlines()]
    assert [(row["step"], row["seconds"], row["share"], row["next_step"]) for row in lines[1:]] == [
        (2, 1, 1 / 2, 8),  # it needs 1 / 0.2 = 5 steps: the next multiple of 2 is 8
        (8, 1, 1 / 6, 14),
    ]


def test_training_that_diverges_goes_on(tmp_path: Path) -> None:
    trainer = plain_trainer(tmp_path, max_steps=2)
    monitor = monitored(trainer, every=1)
    with torch.no_grad():
        trainer.model.get_parameter(monitor.sampled[0])[0, 0] = math.nan
    trainer.train()
    last = read_rows(tmp_path)[-1]
    assert last["matrices"][monitor.sampled[0]] == dict.fromkeys(
        ("update_norm", "effective_rank", "top1pct_norm_ratio")
    )
    assert last["update_norm"]["total"] is None
    assert last["displacement_alignment"] is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"every": 0}, "every: got 0"),
        ({"num_matrices": 0}, "num_matrices: got 0"),
        ({"max_share": 0.0}, "max_share: got 0.0, expected a finite number, above 0 and at most 1"),
        ({"parameters": "no_such_module"}, "matches none"),
        ({"parameters": "norm"}, "the selection has 0 trainable matrices"),
        ({"max_bytes": 100}, "raise `max_bytes`"),
    ],
)
def test_settings_that_cannot_work(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=message):
        UpdateMonitorCallback(plain_trainer(tmp_path), **settings)


def test_weights_that_are_not_there_are_refused(tmp_path: Path) -> None:
    adapted = get_peft_model(tiny_model(0), LoraConfig(target_modules=["q_proj"]))
    with pytest.raises(UnsupportedError, match="PEFT"):
        UpdateMonitorCallback(plain_trainer(tmp_path, adapted))
    for kind, state, message in [
        (DistributedType.DEEPSPEED, {"deepspeed_plugin": SimpleNamespace(zero_stage=3)}, "ZeRO-3"),
        (DistributedType.FSDP, {"fsdp_plugin": SimpleNamespace(fsdp_version=1)}, "FSDP1"),
    ]:
        accelerator = SimpleNamespace(distributed_type=kind, state=SimpleNamespace(**state))
        with pytest.raises(UnsupportedError, match=message):
            UpdateMonitorCallback(SimpleNamespace(model=tiny_model(0), accelerator=accelerator))


def test_two_processes_write_what_one_does(tmp_path: Path) -> None:
    torchrun(Path(__file__).with_name("run_monitor.py"), tmp_path)
    run_scripted(tmp_path / "whole")
    (sharded_header, *sharded), (header, *whole) = (read_rows(tmp_path / name) for name in ("sharded", "whole"))
    assert sharded_header == header
    assert [row["step"] for row in whole] == [2, 4, 6]
    for left, right in zip(sharded, whole, strict=True):
        assert numbers(left) == pytest.approx(numbers(right), rel=1e-9)
    assert [row["step"] for row in read_rows(tmp_path / "replicated")] == [0, 2, 4, 6]


def test_what_is_watched_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="effopd.training.monitor")
    trainer = plain_trainer(tmp_path, max_steps=1)
    monitor = monitored(trainer, parameters=r"layers\.1\..*o_proj")
    trainer.train()
    assert monitor.sampled == ["model.layers.1.self_attn.o_proj.weight"]
    assert monitor.sampled[0] in caplog.text
