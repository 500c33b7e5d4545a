import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny import assert_same

from effopd.errors import CheckpointError, ConfigurationError
from effopd.extrapolation.search import PAPER_SCALES
from effopd.extrapolation.snapshot import Snapshot

SHAPES = {
    "model.embed_tokens.weight": (31, 17),
    "model.layers.0.self_attn.q_proj.weight": (64, 33),
    "model.layers.0.mlp.up_proj.weight": (129, 7),
    "model.norm.weight": (5,),
}


def make(dtype: torch.dtype, spread: float = 1e-2) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Parameters at the anchor, and those they move to: mostly small relative steps, with some sign changes."""
    generator = torch.Generator().manual_seed(0)
    anchor = {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in SHAPES.items()}
    moved = {
        name: (tensor.float() + spread * torch.randn(tensor.shape, generator=generator)).to(dtype)
        for name, tensor in anchor.items()
    }
    return anchor, moved


def step_to(parameters: dict[str, torch.Tensor], target: dict[str, torch.Tensor]) -> None:
    for name, parameter in parameters.items():
        parameter.copy_(target[name])


def ulps(value: torch.Tensor, exact: torch.Tensor) -> float:
    """Largest distance from the exact float64 result, in units in the last place of that result in float32."""
    rounded = exact.float()
    spacing = (torch.nextafter(rounded.abs(), torch.tensor(math.inf)) - rounded.abs()).double()
    return ((value.double() - exact).abs() / spacing).max().item()


@pytest.mark.parametrize("spread", [1e-6, 1e-2, 1.0])
@pytest.mark.parametrize("scale", PAPER_SCALES)
def test_float32_candidates_are_within_two_ulps(scale: float, spread: float) -> None:
    anchor, moved = make(torch.float32, spread)
    parameters = {name: tensor.clone() for name, tensor in anchor.items()}
    snapshot = Snapshot(parameters)
    step_to(parameters, moved)
    snapshot.begin()
    snapshot.write_candidate(scale)
    for name, parameter in parameters.items():
        exact = moved[name].double() + scale * (moved[name].double() - anchor[name].double())
        assert ulps(parameter, exact) <= 2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scale", PAPER_SCALES)
def test_half_precision_candidates_are_the_float32_result_rounded_once(scale: float, dtype: torch.dtype) -> None:
    anchor, moved = make(dtype)
    parameters = {name: tensor.clone() for name, tensor in anchor.items()}
    snapshot = Snapshot(parameters)
    step_to(parameters, moved)
    snapshot.begin()
    snapshot.write_candidate(scale)
    for name, parameter in parameters.items():
        expected = moved[name].float() + scale * (moved[name].float() - anchor[name].float())
        assert torch.equal(parameter, expected.to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_restore_is_exact_after_any_candidates(dtype: torch.dtype) -> None:
    anchor, moved = make(dtype)
    parameters = {name: tensor.clone() for name, tensor in anchor.items()}
    snapshot = Snapshot(parameters)
    step_to(parameters, moved)
    snapshot.begin()
    for scale in PAPER_SCALES:
        snapshot.write_candidate(scale)
    snapshot.restore()
    for name, parameter in parameters.items():
        assert torch.equal(parameter, moved[name])


def test_a_candidate_does_not_depend_on_those_before_it() -> None:
    results = []
    for path in ([4.0], [2.0, 4.0], [2.0, 6.0, 10.0, 4.0]):
        anchor, moved = make(torch.float32)
        snapshot = Snapshot(anchor)
        step_to(anchor, moved)
        snapshot.begin()
        for scale in path:
            snapshot.write_candidate(scale)
        results.append(anchor)
    for other in results[1:]:
        assert all(torch.equal(results[0][name], other[name]) for name in SHAPES)


def test_the_accepted_weights_are_the_next_anchor() -> None:
    parameters, moved = make(torch.float32)
    snapshot = Snapshot(parameters)
    step_to(parameters, moved)
    snapshot.begin()
    snapshot.write_candidate(2.0)
    snapshot.commit()
    accepted = {name: tensor.clone() for name, tensor in parameters.items()}
    assert snapshot.displacement().norms["total"] == 0
    step_to(parameters, moved)
    snapshot.begin()
    snapshot.write_candidate(2.0)
    for name, parameter in parameters.items():
        expected = moved[name] + 2.0 * (moved[name] - accepted[name])
        torch.testing.assert_close(parameter, expected)


def test_an_interrupted_commit_leaves_the_old_anchor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    parameters, moved = make(torch.float32)
    snapshot = Snapshot(parameters)
    snapshot.begin()
    snapshot.commit()
    anchor = {name: tensor.clone() for name, tensor in parameters.items()}
    step_to(parameters, moved)
    snapshot.begin()
    snapshot.write_candidate(2.0)
    accepted = {name: tensor.clone() for name, tensor in parameters.items()}

    def cut_short(source: dict[str, torch.Tensor], target: dict[str, torch.Tensor]) -> None:
        name = next(iter(source))
        target[name].copy_(source[name])
        raise KeyboardInterrupt

    monkeypatch.setattr(snapshot, "_copy", cut_short)
    with pytest.raises(KeyboardInterrupt):
        snapshot.commit()
    assert_same(parameters, accepted)
    snapshot.save(tmp_path / "anchor.safetensors")
    assert_same(load_file(tmp_path / "anchor.safetensors"), {f"anchor.{name}": anchor[name] for name in anchor})


def test_measure_sums_up_the_displacement() -> None:
    parameters, moved = make(torch.float32)
    anchor = {name: tensor.clone() for name, tensor in parameters.items()}
    snapshot = Snapshot(parameters)
    moved["model.norm.weight"] = anchor["model.norm.weight"].clone()
    step_to(parameters, moved)
    first = snapshot.displacement()
    delta = {name: (moved[name] - anchor[name]).double() for name in SHAPES}
    norm = math.sqrt(sum(d.square().sum().item() for d in delta.values()))
    assert first.norms["total"] == pytest.approx(norm, rel=1e-6)
    assert first.norms["norm"] == 0
    assert first.norms["mlp"] == pytest.approx(delta["model.layers.0.mlp.up_proj.weight"].norm().item(), rel=1e-6)
    numel = sum(d.numel() for d in delta.values())
    assert first.changed_fraction == pytest.approx((numel - 5) / numel, abs=1e-3)
    assert first.cosine_to_previous is None
    snapshot.begin()
    snapshot.commit()
    step_to(parameters, {name: moved[name] + delta[name].float() for name in SHAPES})
    assert snapshot.displacement().cosine_to_previous == pytest.approx(1, abs=1e-4)
    step_to(parameters, anchor)
    assert snapshot.displacement().cosine_to_previous == pytest.approx(-1, abs=1e-4)


@pytest.mark.parametrize(
    ("dtype", "step", "overflows"),
    [(torch.float16, 10000.0, True), (torch.float16, 1.0, False), (torch.float32, 1e4, False)],
)
def test_overflow_is_foreseen_and_seen(dtype: torch.dtype, step: float, overflows: bool) -> None:
    parameters = {"w": torch.zeros(3, dtype=dtype)}
    snapshot = Snapshot(parameters)
    parameters["w"][1] = step
    displacement = snapshot.displacement()
    snapshot.begin()
    assert snapshot.candidate_may_overflow(displacement, 10.0) == overflows
    snapshot.write_candidate(10.0)
    assert snapshot.is_finite() == (not overflows)


def test_a_large_weight_overflows_by_a_small_change() -> None:
    parameters = {"w": torch.full((3,), 60000.0, dtype=torch.float16)}
    snapshot = Snapshot(parameters)
    parameters["w"][1] += 1024
    displacement = snapshot.displacement()
    assert snapshot.candidate_may_overflow(displacement, 5.0)
    assert not snapshot.candidate_may_overflow(displacement, 2.0)


def test_large_weights_below_zero_overflow_too() -> None:
    parameters = {"w": torch.full((3,), -60000.0, dtype=torch.float16)}
    snapshot = Snapshot(parameters)
    parameters["w"][1] -= 1024
    displacement = snapshot.displacement()
    assert displacement.largest == {torch.float16: (61024.0, 1024.0)}
    assert snapshot.candidate_may_overflow(displacement, 5.0)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_noticed(bad: float) -> None:
    parameters = {"w": torch.zeros(4), "v": torch.zeros(4)}
    snapshot = Snapshot(parameters)
    parameters["w"][2] = bad
    assert not snapshot.displacement().finite
    assert snapshot.candidate_may_overflow(snapshot.displacement(), 2.0)
    assert not snapshot.is_finite()


def test_save_and_load(tmp_path: Path) -> None:
    parameters, moved = make(torch.bfloat16)
    snapshot = Snapshot(parameters)
    snapshot.save(tmp_path / "first.safetensors")
    step_to(parameters, moved)
    snapshot.begin()
    snapshot.write_candidate(2.0)
    snapshot.commit()
    snapshot.save(tmp_path / "second.safetensors")
    step_to(parameters, moved)
    expected = snapshot.displacement()
    fresh = Snapshot(parameters)
    fresh.load(tmp_path / "second.safetensors")
    assert fresh.displacement() == expected
    fresh.load(tmp_path / "first.safetensors")
    assert fresh.displacement().cosine_to_previous is None
    snapshot.begin()
    snapshot.commit()
    snapshot.load(tmp_path / "first.safetensors")  # what is left in the second buffer is no move of this anchor
    assert snapshot.displacement().cosine_to_previous is None
    assert not list(tmp_path.glob("*.tmp"))


def test_load_says_what_does_not_fit(tmp_path: Path) -> None:
    Snapshot({"w": torch.zeros(3), "v": torch.zeros(2)}).save(tmp_path / "anchor.safetensors")
    with pytest.raises(CheckpointError, match=r"2 parameters differ, the first is v \(saved \(2,\), expected None\)"):
        Snapshot({"w": torch.zeros(4)}).load(tmp_path / "anchor.safetensors")
    with pytest.raises(CheckpointError, match="cannot be read"):
        Snapshot({"w": torch.zeros(4)}).load(tmp_path / "none.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "anchor.safetensors").read_bytes()[:40])
    with pytest.raises(CheckpointError, match="cannot be read"):
        Snapshot({"w": torch.zeros(4)}).load(tmp_path / "cut.safetensors")


def test_quantized_weights_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="unquantized"):
        Snapshot({"w": torch.zeros(3, dtype=torch.int8)})


def test_float64_parameters_are_measured_in_float64() -> None:
    weights = {"w": torch.randn(50, dtype=torch.float64)}
    snapshot = Snapshot(weights)
    assert snapshot.displacement().changed_fraction == 0
    weights["w"][3] += 1e-9
    assert snapshot.displacement().norms["total"] == pytest.approx(1e-9, rel=1e-4)


def test_norms_of_many_elements_are_exact_enough() -> None:
    """The first step of AdamW moves every element alike, and one float32 sum over their squares would be 1 % off."""
    weights = {"w": torch.zeros(30_000_000)}
    snapshot = Snapshot(weights)
    weights["w"] += 1e-5
    assert snapshot.displacement().norms["total"] == pytest.approx(1e-5 * math.sqrt(30_000_000), rel=2e-5)


def test_no_parameters_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="no parameters to extrapolate"):
        Snapshot({})


SHARDED_TWICE = """
import sys
import torch, torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module
from torch.testing._internal.distributed.fake_pg import FakeStore
from effopd.extrapolation.shards import num_replicas

dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=8)
mesh = init_device_mesh("cpu", (2, 2, 2), mesh_dim_names=("replicate", "shard", "tp"))
model = torch.nn.Sequential(torch.nn.Linear(4, 8, bias=False))
parallelize_module(model, mesh["tp"], {"0": ColwiseParallel()})
fully_shard(model, mesh=mesh["replicate", "shard"])
print(num_replicas(model[0].weight))
"""


def test_parts_that_are_sharded_twice_count_their_replicas() -> None:
    done = subprocess.run([sys.executable, "-c", SHARDED_TWICE], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2"]
