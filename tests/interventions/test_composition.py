"""What holds for all interventions, and for several of them in a list."""

import math
from pathlib import Path

import pytest
import torch
from checkpoints.tiny_pairs import load_tensors, write_raw

from effopd.checkpoints import Pair, open_pair
from effopd.interventions import (
    BottomComponents,
    Intervention,
    NormMatch,
    Scale,
    TopComponents,
    Window,
    decompose,
    update_norms,
)
from effopd.interventions.update import is_matrix
from effopd.parameters import locate
from interventions.changed import assert_same, updates, weights


@pytest.mark.parametrize(
    "identity",
    [
        [],
        [Scale(1)],
        [Scale(2), Scale(0.5)],
        [TopComponents(100)],
        [TopComponents(99.9)],  # rounds up to all components of matrices this small
        [BottomComponents(100)],
        [Window("both", 0, 9, other="trained")],
        [Window("mlp", 1, 1, other="trained")],
    ],
    ids=str,
)
def test_identities_give_the_trained_weights_to_the_bit(pair: Pair, identity: list[Intervention]) -> None:
    assert_same(weights(pair, identity), load_tensors(pair.trained.directory))


def test_own_norms_change_nothing(pair: Pair) -> None:
    own = str(pair.trained.directory)
    trained = load_tensors(pair.trained.directory)
    assert_same(weights(pair, [NormMatch(own)]), trained)
    assert_same(weights(pair, [NormMatch(own, beta=0)]), trained)
    assert_same(weights(pair, [TopComponents(100, norm_like=own)]), trained)


@pytest.mark.parametrize("nothing", [[Scale(0)], [Scale(-0.0)], [Scale(0), NormMatch({"x": 1.0})]], ids=str)
def test_zero_gives_the_base_to_the_bit(pair: Pair, nothing: list[Intervention]) -> None:
    assert_same(weights(pair, nothing), load_tensors(pair.base.directory))


def test_an_update_of_zeros_stays_one(llama: Path, trained_llama: Path) -> None:
    pair = open_pair(llama, llama)
    final = str(trained_llama)
    for kind in (NormMatch(final), TopComponents(10, norm_like=final), BottomComponents(10), Scale(3)):
        assert_same(weights(pair, [kind]), load_tensors(llama))


def test_an_update_that_was_turned_round_stays_so_at_another_norm(pair: Pair, other_llama: Path) -> None:
    norms = update_norms(pair.base.directory, other_llama)
    for kind in (NormMatch(norms), TopComponents(100, norm_like=norms), TopComponents(50, norm_like=norms)):
        found = updates(pair, [Scale(-0.5), kind])
        for name, shape in pair.shapes.items():
            if is_matrix(name, shape):
                assert float(found[name].norm()) == pytest.approx(norms[name])
                assert float((found[name] * pair.delta(name)).sum()) < 0


def test_composition_is_in_order(pair: Pair, other_llama: Path) -> None:
    norms = update_norms(pair.base.directory, other_llama)
    last_set = updates(pair, [TopComponents(10), NormMatch(norms)])
    first_set = updates(pair, [NormMatch(norms), TopComponents(10)])
    for name, shape in pair.shapes.items():
        if is_matrix(name, shape):
            assert float(last_set[name].norm()) == pytest.approx(norms[name])
            assert float(first_set[name].norm()) < 0.99 * norms[name]
            twice = updates(pair, [TopComponents(50), TopComponents(50)])[name]
            assert torch.linalg.matrix_rank(twice) == math.ceil(min(shape) / 4)
            break
    both = updates(pair, [Window("mlp", 1, 0), Scale(2)])
    for name in pair.names:
        inside = locate(name).kind == "mlp" and locate(name).layer == 1
        assert torch.equal(both[name], 2.0 * inside * pair.delta(name))


def test_experts_of_a_stack_are_matrices_one_by_one(tmp_path: Path) -> None:
    torch.manual_seed(0)
    stack = "model.layers.0.mlp.experts.gate_up_proj"
    tensors = {
        stack: torch.randn(3, 6, 5),
        f"{stack}_bias": torch.randn(3, 5),
        "model.layers.0.linear_attn.conv1d.weight": torch.randn(6, 1, 4),
    }
    base = write_raw(tmp_path / "base", tensors)
    trained = write_raw(tmp_path / "trained", {n: t + torch.randn_like(t) for n, t in tensors.items()})
    pair = open_pair(base, trained)
    top = weights(pair, [TopComponents(40)])
    for expert in range(3):
        update = pair.delta(f"{stack}[{expert}]")
        kept = top[stack][expert].double() - tensors[stack][expert].double()
        left, sigma, right = torch.linalg.svd(update)
        assert torch.allclose(kept, left[:, :2] * sigma[:2] @ right[:2], atol=1e-6)
        assert decompose(update).rank == 5
    for name in (f"{stack}_bias", "model.layers.0.linear_attn.conv1d.weight"):
        assert torch.equal(top[name], pair.trained.read(name))
    norms = update_norms(base, trained)
    assert f"{stack}[2]" in norms and stack not in norms
    assert_same(weights(pair, [NormMatch(norms)]), load_tensors(trained))


def test_integers_are_kept_and_never_scaled(tmp_path: Path) -> None:
    models = []
    for number in range(2):
        weight = torch.full((2, 2), float(number))
        tensors = {"model.layers.0.mlp.up_proj.weight": weight, "position_ids": torch.arange(3)}
        models.append(write_raw(tmp_path / str(number), tensors))
    assert torch.equal(weights(open_pair(*models), [Scale(0.5)])["position_ids"], torch.arange(3))
    changed = write_raw(tmp_path / "2", {**load_tensors(models[1]), "position_ids": torch.arange(3) + 1})
    with pytest.raises(NotImplementedError, match=r"position_ids is torch.int64 and differs"):
        weights(open_pair(models[0], changed), [Scale(0.5)])
