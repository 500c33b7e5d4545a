"""DeepSpeed ZeRO on gloo processes: to the bit with given scores, and like DDP with real rollouts."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from extrapolation.test_distributed import launch

pytestmark = pytest.mark.skipif(find_spec("deepspeed") is None, reason="deepspeed is not installed")


def check_exact(seen: dict[str, Any], setup: str, processes: int) -> None:
    assert seen["problems"] == []
    assert seen["resumed"] == [[], []]
    assert seen["accepted"] == [2, 0, 4]
    assert seen["distinct"] == 9  # a forward pass by each candidate's own weights
    assert seen["rows"] == 3
    assert seen["dtype"] == ("torch.bfloat16" if "bf16" in setup else "torch.float32")
    files = 1 if setup.startswith("0") else processes
    anchors = [f"anchor-{index:05d}-of-{files:05d}.safetensors" for index in range(files)]
    assert seen["files"] == [*anchors, "state.json"]


def check_alike(seen: dict[str, Any], plain: dict[str, Any]) -> None:
    """Records as under DDP, up to the rounding of sums over processes."""
    assert seen["resumed"] == plain["resumed"] == []
    assert seen["rate"] == plain["rate"]
    assert len(seen["rows"]) == len(plain["rows"]) > 2
    assert any(row["accepted_scale"] for row in plain["rows"])
    for row, wanted in zip(seen["rows"], plain["rows"], strict=True):
        for key in ("step", "accepted_scale", "rollouts", "generated_tokens", "teacher_tokens", "resampled_rollouts"):
            assert row[key] == wanted[key]
        for key in ("score", "stderr", "kl_to_current"):
            found, expected = ([each[key] or 0.0 for each in of["candidates"]] for of in (row, wanted))
            assert found == pytest.approx(expected, rel=1e-3)
        assert row["delta_norm"] == pytest.approx(wanted["delta_norm"], rel=1e-3)


def run(out: Path, processes: int, *names: str) -> dict[str, Any]:
    """Launch `run_zero.py` for these setups, check all of them, and return what was seen."""
    seen = launch("run_zero.py", out, *names, processes=processes)
    assert seen.keys() == set(names)
    for name in names:
        setup, _, judge = name.partition("/")
        if not judge:
            check_exact(seen[name], setup, processes)
        elif judge == "none":
            assert seen[name] == {"rejected": [], "restored": []}
        elif setup != "ddp":
            check_alike(seen[name], seen[f"ddp/{judge}"])
    return seen


def test_three_processes_with_padding(tmp_path: Path) -> None:
    run(tmp_path, 3, "1-bf16-sums-fp32", "2-bf16-offload", "3-bf16", "3-bf16/none")


def test_every_way_to_judge(tmp_path: Path) -> None:
    run(tmp_path, 2, "ddp/reward", "2-fp32/reward", "ddp/ahead", "3-fp32/ahead")


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
def test_every_setup(tmp_path: Path, processes: int) -> None:
    names = ["0-fp32", "1-fp32", "1-bf16", "2-fp32", "2-bf16", "3-fp32", "3-bf16-all-persistent", "2-fp32/none"]
    run(tmp_path, processes, *names, "3-bf16-none-persistent", "3-bf16-groups", "3-bf16-offload")


@pytest.mark.slow
@pytest.mark.parametrize("judge", ["reward", "teacher_kl", "shared_kl", "ahead", "accumulated", "grpo"])
def test_every_stage_is_like_ddp(tmp_path: Path, judge: str) -> None:
    setups = ["ddp", "0-fp32", "1-fp32", "2-fp32", "3-fp32"]
    if judge == "accumulated":
        setups.remove("0-fp32")  # where DeepSpeed halves the gradients of two micro-batches, in plain training too
    run(tmp_path, 2, *(f"{setup}/{judge}" for setup in setups))


@pytest.mark.slow
def test_the_schedule_of_deepspeed_counts_steps_and_not_passes(tmp_path: Path) -> None:
    [seen] = launch("run_zero.py", tmp_path, "2-fp32-own-optimizer/ahead", processes=2).values()
    assert seen["resumed"] == []
    assert seen["schedules"] == pytest.approx([3e-4, 3e-4])  # that of 4 steps, where 8 passes would be at 7e-4
