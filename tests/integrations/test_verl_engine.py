"""Extrapolation on verl's FSDP2 engine, with two gloo processes: what is accepted, rejected, published, and resumed."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from verl_processes import ENVIRONMENT, FOLDER, needs_verl
from verl_worlds import write_world

pytestmark = needs_verl


def run(out: Path, *arguments: str) -> None:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [sys.executable, *launcher, FOLDER / "run_verl_engine.py", out, *arguments]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("engine")
    write_world(out / "world")
    run(out)
    return out


def seen(out: Path) -> dict[str, Any]:
    return dict(json.loads((out / "seen.json").read_text()))


def assert_same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


def weights(out: Path, name: str) -> dict[str, torch.Tensor]:
    return load_file(out / f"{name}.safetensors")


def extrapolated(anchor: dict[str, torch.Tensor], current: dict[str, torch.Tensor], scale: float) -> Any:
    """`anchor + (1 + scale) * delta`, from whole tensors: as float32 arithmetic gives it, which float64 confirms."""
    result = {name: torch.lerp(anchor[name], current[name], 1 + scale) for name in anchor}
    for name, value in result.items():
        exact = anchor[name].double() + (1 + scale) * (current[name].double() - anchor[name].double())
        torch.testing.assert_close(value.double(), exact, rtol=1e-6, atol=1e-8)
    return result


def test_the_engine_is_sharded_and_trl_is_not_there(engine: Path) -> None:
    found = seen(engine)
    assert found["kinds"] == ["DTensor"]
    mine, all_of_them = found["elements"]
    assert mine < 0.6 * all_of_them
    assert not found["trl"]
    assert found["seconds"] > 0


def test_what_is_accepted_is_exactly_the_extrapolation(engine: Path) -> None:
    assert seen(engine)["accepted"] == [4, 0, None, 2]
    first = extrapolated(weights(engine, "0"), weights(engine, "1.before"), 4)
    assert_same(weights(engine, "1"), first)
    third = extrapolated(weights(engine, "2"), weights(engine, "4.before"), 2)
    assert_same(weights(engine, "4"), third)
    moved = [(weights(engine, "4.before")[name] - value).double() for name, value in weights(engine, "2").items()]
    assert seen(engine)["norm"] == pytest.approx(torch.stack([each.square().sum() for each in moved]).sum().sqrt())


def test_what_is_published_is_what_is_live(engine: Path) -> None:
    """Each score is of the weights that it belongs to, although a forward pass came before them."""
    for step, anchor, scales in ((1, "0", [0, 2, 4, 6]), (2, "1", [0, 2]), (4, "2", [0, 2, 4])):
        for index, scale in enumerate(scales):
            expected = extrapolated(weights(engine, anchor), weights(engine, f"{step}.before"), scale)
            assert_same(weights(engine, f"{step}.tried.{index}"), expected)


def test_rejecting_restores_every_bit(engine: Path) -> None:
    assert_same(weights(engine, "2"), weights(engine, "2.before"))
    assert_same(weights(engine, "3"), weights(engine, "3.before"))
    rejected = weights(engine, "2.tried.1")
    assert any(not torch.equal(rejected[name], value) for name, value in weights(engine, "2").items())


def test_resuming_gives_the_same_bits(engine: Path) -> None:
    files = {path.name for path in (engine / "checkpoint" / "effopd").iterdir()}
    assert files == {*(f"anchor-0000{rank}-of-00002.safetensors" for rank in (0, 1)), "state.json"}
    run(engine, "--resume")
    assert_same(weights(engine, "resumed"), weights(engine, "4"))


def test_an_optimizer_that_keeps_weights_is_refused(engine: Path) -> None:
    assert "holds the weights in its state ('master')" in seen(engine)["refused"]
