"""What the new weights hold of the update that was intended, in every dtype, for every kind and size of update."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints.tiny_pairs import load_tensors, write_raw

from effopd.checkpoints import Pair, open_pair
from effopd.errors import ConfigurationError
from effopd.interventions import (
    BottomComponents,
    Intervention,
    NormMatch,
    ReplaceEmbeddings,
    Scale,
    TopComponents,
    Window,
    intervene,
    summary,
)
from effopd.interventions.pair_source import PairSource
from effopd.interventions.realised import Realised, RealisedByKind, dtype_names, exceeds
from effopd.interventions.update import new_tensor, new_updates

MATRIX, EMBEDDING = "model.layers.0.mlp.up_proj.weight", "model.embed_tokens.weight"
SHAPES = {
    EMBEDDING: (40, 24),
    "model.layers.0.self_attn.q_proj.weight": (24, 24),
    MATRIX: (48, 24),
    "model.norm.weight": (24,),
}
# Digits of the significand, the hidden one counted, and the exponent of the smallest normal number.
FORMATS = {torch.bfloat16: (8, -126), torch.float16: (11, -14), torch.float32: (24, -126)}
KINDS: dict[str, Sequence[Intervention]] = {
    "half": [Scale(0.5)],
    "extrapolated": [Scale(-1.7)],
    "top": [TopComponents(10)],
    "bottom": [BottomComponents(50, other="base")],
    "window": [Window("mlp", 0, 0), Scale(0.3)],
    "norms": [NormMatch(dict.fromkeys(SHAPES, 1e-3), beta=0.5)],
    "several": [ReplaceEmbeddings(), TopComponents(30), Scale(0.9)],
}


def write_pair(
    folder: Path, dtype: torch.dtype, size: float, *, std: float = 0.02, shapes: dict[str, tuple[int, ...]] = SHAPES
) -> Pair:
    """A base with weights of a standard deviation, and the same with updates of another, both rounded to a dtype."""
    generator = torch.Generator().manual_seed(0)
    base = {name: (std * torch.randn(shape, generator=generator)).to(dtype) for name, shape in shapes.items()}
    trained = {
        name: (tensor.double() + size * torch.randn(tensor.shape, generator=generator)).to(dtype)
        for name, tensor in base.items()
    }
    for name, tensors in (("base", base), ("trained", trained)):
        write_raw(folder / name, tensors)
    return open_pair(folder / "base", folder / "trained")


def half_units(weights: torch.Tensor) -> torch.Tensor:
    """Half of the distance to the next larger magnitude, for each number, from the definition of its format."""
    digits, smallest = FORMATS[weights.dtype]
    exponents = torch.frexp(weights.double()).exponent.clamp(min=smallest + 1)  # frexp's significand is below 1
    return torch.ldexp(torch.full(weights.shape, 0.5, dtype=torch.float64), exponents - digits)


@pytest.mark.parametrize("size", [1e-6, 1e-5, 1e-3, 0.1])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_the_error_is_what_the_format_rounds_away(tmp_path: Path, stored: torch.dtype, kind: str, size: float) -> None:
    """In whatever dtype the weights are held: |R - U| is at most half a unit in the last place, entry by entry."""
    pair = write_pair(tmp_path, stored, size)
    source = PairSource(pair)
    for held in {stored, torch.float32}:
        digits = FORMATS[held][0]
        for name, shape in pair.shapes.items():
            (update,) = new_updates(name, shape, KINDS[kind], source)
            new = new_tensor(name, [update], held)
            intended = update.coefficient * update.tensor
            realised = new.tensor.double() - pair.base.read(name).double()
            error = realised - intended
            assert (error.abs() <= half_units(new.tensor) * (1 + 1e-9)).all()
            norms = [float(torch.linalg.vector_norm(each)) for each in (intended, realised, error)]
            assert new.realised == pytest.approx(norms, rel=1e-9, abs=1e-18)
            bound = float(torch.linalg.vector_norm(half_units(new.tensor)))
            assert new.realised.error_norm <= bound * (1 + 1e-9)
            if stored != torch.float16:  # whose small weights are subnormal, with fewer digits
                assert bound <= 2.0**-digits * float(new.tensor.double().norm()) * (1 + 1e-9)
            if held == torch.float32 and norms[0]:
                assert new.realised.relative_error <= 2.0**-24 * float(new.tensor.double().norm()) / norms[0] * 1.001


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("dtype", ["float32", "stored"])
def test_identities_are_exact_in_either_dtype(tmp_path: Path, stored: torch.dtype, dtype: Any) -> None:
    """The trained model and the base, value by value, which a wider dtype holds as they are."""
    write_pair(tmp_path, stored, 1e-4)
    base, trained = (load_tensors(tmp_path / each) for each in ("base", "trained"))
    for number, (plan, expected) in enumerate(
        [
            ([Scale(1)], trained),
            ([TopComponents(100)], trained),
            ([Scale(0)], base),
            ([ReplaceEmbeddings()], trained | {EMBEDDING: base[EMBEDDING]}),
            ([Window("mlp", 0, 0)], base | {MATRIX: trained[MATRIX]}),
        ]
    ):
        record = intervene(tmp_path / "base", tmp_path / "trained", plan, tmp_path / str(number), dtype=dtype)
        assert set(record["relative_error"].values()) == {0.0}
        assert record["realised_norm"] == record["intended_norm"]
        for name, tensor in load_tensors(tmp_path / str(number)).items():
            assert tensor.dtype == (torch.float32 if dtype == "float32" else stored)
            assert torch.equal(tensor, expected[name].to(tensor.dtype))
        default = intervene(tmp_path / "base", tmp_path / "trained", plan, tmp_path / f"default{number}")
        assert default["dtype"] == dtype_names([stored])  # nothing would be lost


def test_shards_and_dtypes_hold_the_same_numbers(tmp_path: Path) -> None:
    """Sharded equals whole in float32, and float32 rounded by hand is nearest to the intended weight."""
    pair = write_pair(tmp_path, torch.bfloat16, 1e-5)
    paths = (tmp_path / "base", tmp_path / "trained")
    intervene(*paths, [Scale(0.5)], tmp_path / "whole")
    intervene(*paths, [Scale(0.5)], tmp_path / "shards", max_shard_bytes=2000)
    whole, shards = load_tensors(tmp_path / "whole"), load_tensors(tmp_path / "shards")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    for name, tensor in whole.items():
        assert tensor.dtype == torch.float32 and torch.equal(tensor, shards[name])
        assert torch.equal(tensor, (pair.base.read(name).double() + pair.delta(name) / 2).float())


@pytest.mark.parametrize(
    ("plan", "error", "ratio"),
    [([Scale(0.5)], 0.88, 1.34), ([TopComponents(10)], 0.79, 0.88), ([BottomComponents(50)], 0.97, 0.33)],
    ids=str,
)
def test_small_updates_in_bfloat16(tmp_path: Path, plan: list[Intervention], error: float, ratio: float) -> None:
    """Weights of 0.02 and an update of 1e-5, as after training at a small learning rate, with what bf16 makes of it."""
    write_pair(tmp_path, torch.bfloat16, 1e-5, shapes={MATRIX: (256, 256)})
    paths = (tmp_path / "base", tmp_path / "trained")
    with pytest.warns(UserWarning, match=r"in bfloat16, hold an update that differs .* by \d\d% of its norm"):
        stored = intervene(*paths, plan, tmp_path / "stored", dtype="stored")
    assert stored["relative_error"]["mlp"] == pytest.approx(error, abs=0.1)
    assert stored["realised_norm"]["mlp"] / stored["intended_norm"]["mlp"] == pytest.approx(ratio, abs=0.1)
    record = intervene(*paths, plan, tmp_path / "out")
    assert record["dtype"] == "float32" and record["relative_error"]["total"] < 1e-3
    assert record["relative_error_if_stored"] == stored["relative_error"]
    line = summary(record)
    assert f"bfloat16 would lose {100 * stored['relative_error']['total']:.2g} %" in line and line.startswith(
        "float32, 262."
    )
    assert f"differs from the base in {100 * record['changed_fraction']:.2g} % of its weights" in line


def test_the_default_keeps_the_stored_dtype_where_it_loses_little(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Large updates of everything but one vector, which alone would want float32."""
    write_pair(tmp_path, torch.bfloat16, 0.1)
    changed = {"model.norm.weight": torch.ones(24).bfloat16()}
    for name, scale in (("base", 1.0), ("trained", 1 + 2**-7)):
        tensors = load_tensors(tmp_path / name) | {key: tensor * scale for key, tensor in changed.items()}
        write_raw(tmp_path / f"{name}2", tensors)
    seen: list[tuple[str, int]] = []
    record = intervene(
        tmp_path / "base2",
        tmp_path / "trained2",
        [Scale(0.5)],
        tmp_path / "out",
        progress=lambda *each: seen.append(each),
    )
    assert record["dtype"] == "bfloat16" and record["relative_error"]["norm"] == 1
    assert 0 < record["relative_error"]["total"] < 0.01
    assert len(seen) == seen[-1][1] == 12  # tried, then in float32, and then again
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_an_adapter_has_its_update_in_float32(tmp_path: Path) -> None:
    """Merged in bf16, a small update of an adapter is mostly rounding; in float32 it is there."""
    from interventions.test_intervene import write_adapter

    torch.manual_seed(0)
    name = "model.layers.0.self_attn.q_proj"
    base = write_raw(tmp_path / "base", {f"{name}.weight": (0.02 * torch.randn(48, 24)).bfloat16()})
    adapter = write_adapter(base, tmp_path / "adapter")
    weights = load_tensors(adapter)
    from safetensors.torch import save_file

    save_file({key: 5e-3 * tensor for key, tensor in weights.items()}, adapter / "adapter_model.safetensors")
    pair = open_pair(base, adapter)
    record = intervene(base, adapter, [Scale(1)], tmp_path / "out")
    assert record["dtype"] == "float32" and record["relative_error_if_stored"]["total"] > 0.5
    expected = pair.base.read(f"{name}.weight").double() + pair.delta(f"{name}.weight")
    assert torch.equal(load_tensors(tmp_path / "out")[f"{name}.weight"], expected.float())


def test_a_base_in_a_wider_dtype(tmp_path: Path) -> None:
    """Rounding the base to the trained model's dtype is an error without an intended update."""
    write_pair(tmp_path / "32", torch.float32, 1e-4)
    trained = {name: tensor.bfloat16() for name, tensor in load_tensors(tmp_path / "32" / "trained").items()}
    write_raw(tmp_path / "trained", trained)
    paths = (tmp_path / "32" / "base", tmp_path / "trained")
    with pytest.warns(UserWarning, match="and no update was intended"):
        record = intervene(*paths, [Scale(0)], tmp_path / "stored", dtype="stored")
    assert record["relative_error"]["total"] is None and record["realised_norm"]["total"] > 0
    assert json.loads((tmp_path / "stored" / "intervention.json").read_text()) == record
    record = intervene(*paths, [Scale(0)], tmp_path / "out")
    assert record["dtype"] == "float32" and record["relative_error"]["total"] == 0
    base = load_tensors(tmp_path / "32" / "base")
    assert all(torch.equal(tensor, base[name]) for name, tensor in load_tensors(tmp_path / "out").items())
    assert "would lose all of" in summary(record)


def test_norms_add_up_over_kinds() -> None:
    found = RealisedByKind()
    found.add("model.layers.0.mlp.up_proj.weight", Realised(3.0, 6.0, 3.0))
    found.add("model.layers.1.mlp.up_proj.weight", Realised(4.0, 8.0, 4.0))
    found.add("lm_head.weight", Realised(0.0, 0.0, 0.0))
    assert found.kinds["mlp"] == Realised(5.0, 10.0, 5.0)
    assert found.total.relative_error == 1 and found.kinds["lm_head"].relative_error == 0
    assert not exceeds(found.kinds["lm_head"], 0.01) and exceeds(Realised(0.0, 1.0, 1.0), math.inf)
    assert list(found.with_total()) == ["total", "mlp", "lm_head"]


def test_an_unknown_dtype_is_refused(tmp_path: Path) -> None:
    write_pair(tmp_path, torch.bfloat16, 1e-4)
    with pytest.raises(ConfigurationError, match="dtype: got 'bf16', expected one of float32, stored"):
        intervene(tmp_path / "base", tmp_path / "trained", [Scale(1)], tmp_path / "out", dtype="bf16")  # type: ignore[arg-type]
