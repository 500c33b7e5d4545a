"""Truncations agree with the SVD, and their parts add up."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from effopd.checkpoints import Pair
from effopd.errors import ConfigurationError
from effopd.interventions import (
    BottomComponents,
    Decomposition,
    TopComponents,
    decompose,
    keep_bottom,
    keep_top,
    update_norms,
)
from effopd.interventions.truncate import bottom_count, top_count
from effopd.interventions.update import is_matrix
from effopd.parameters import locate
from interventions.changed import updates, weights

SHAPES = [(40, 24), (24, 40), (30, 30), (1, 9), (9, 1)]


def noise(shape: tuple[int, int], seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def by_svd(update: torch.Tensor, kept: slice) -> torch.Tensor:
    left, sigma, right = torch.linalg.svd(update, full_matrices=False)
    return left[:, kept] * sigma[kept] @ right[kept]


@pytest.mark.parametrize("shape", SHAPES)
def test_top_and_bottom_are_those_of_the_svd_and_add_up(shape: tuple[int, int]) -> None:
    update = noise(shape)
    decomposition = decompose(update)
    rank = min(shape)
    assert decomposition.rank == rank
    for count in range(rank + 1):
        top, bottom = (keep_top(update, count, decomposition), keep_bottom(update, rank - count, decomposition))
        assert torch.allclose(top, by_svd(update, slice(count)), atol=1e-12)
        assert torch.allclose(bottom, by_svd(update, slice(count, None)), atol=1e-12)
        assert (top + bottom - update).abs().max() <= 4e-16 * update.abs().max()
        squares = [float(torch.linalg.vector_norm(part)) ** 2 for part in (top, bottom, update)]
        assert squares[0] + squares[1] == pytest.approx(squares[2])
    assert keep_top(update, rank, decomposition) is update
    assert keep_bottom(update, rank, decomposition) is update


def test_the_rank_of_the_parts() -> None:
    update = noise((40, 24))
    decomposition = decompose(update)
    for count in (1, 5, 20):
        assert torch.linalg.matrix_rank(keep_top(update, count, decomposition)) == count
        assert torch.linalg.matrix_rank(keep_bottom(update, count, decomposition)) == count


def test_low_rank_counts_only_what_is_there() -> None:
    update = noise((40, 4)) @ noise((4, 24), seed=1)
    decomposition = decompose(update)
    assert decomposition.rank == 4
    top, bottom = keep_top(update, 3, decomposition), keep_bottom(update, 1, decomposition)
    assert torch.allclose(top, by_svd(update, slice(3)), atol=1e-12)
    assert torch.linalg.matrix_rank(bottom) == 1


def test_steep_spectra_are_cut_where_they_should_be() -> None:
    """Components at 1e-10 of the first are below what the Gram matrix resolves, and do count for the rank."""
    left, _ = torch.linalg.qr(noise((40, 10)))
    right, _ = torch.linalg.qr(noise((24, 10), seed=1))
    sigma = torch.logspace(0, -11, 10, dtype=torch.float64)
    update = left * sigma @ right.mT
    decomposition = decompose(update)
    assert decomposition.rank == 10
    bottom = keep_bottom(update, 2, decomposition)
    assert torch.linalg.vector_norm(bottom) == pytest.approx(math.hypot(*sigma[-2:].tolist()), rel=1e-3)


def test_zeros_have_no_components() -> None:
    zeros = torch.zeros(5, 7, dtype=torch.float64)
    decomposition = decompose(zeros)
    assert decomposition.rank == 0
    assert keep_top(zeros, 0, decomposition) is zeros


def test_counts_are_exact_and_complementary() -> None:
    assert top_count(1.1, 3000) == 33
    assert math.ceil(1.1 * 3000 / 100) == 34
    assert top_count(0.001, 50) == 1
    assert top_count(100, 50) == bottom_count(100, 50) == 50
    assert bottom_count(1, 50) == 0
    for rank in (1, 7, 256, 1536):
        for tenth in range(1, 1000, 7):
            assert top_count(tenth / 10, rank) == -(-tenth * rank // 1000)
            assert top_count(tenth / 10, rank) + bottom_count((1000 - tenth) / 10, rank) == rank


def test_too_few_vectors_are_refused() -> None:
    update = noise((40, 24))
    full = decompose(update)
    partial = Decomposition(full.vectors[:, :5], full.rank)
    assert torch.allclose(keep_top(update, 5, partial), keep_top(update, 5, full), atol=1e-13)
    assert torch.allclose(keep_bottom(update, 19, partial), keep_bottom(update, 19, full), atol=1e-13)
    with pytest.raises(ConfigurationError, match=r"6 components .* 5 singular vectors"):
        keep_top(update, 6, partial)
    for count in (-1, 25):
        with pytest.raises(ConfigurationError, match="from 0 to 24"):
            keep_top(update, count, full)
    with pytest.raises(ConfigurationError, match="Pass decompose"):
        keep_top(noise((40, 25)), 3, full)


@pytest.mark.parametrize("percent", [0.1, 10, 33, 50, 77.7, 99])
def test_top_and_bottom_add_up_to_the_update(pair: Pair, percent: float) -> None:
    top = updates(pair, [TopComponents(percent, other="trained")])
    bottom = updates(pair, [BottomComponents(round(100 - percent, 1), other="base")])
    for name, shape in pair.shapes.items():
        update = pair.delta(name)
        assert (top[name] + bottom[name] - update).abs().max() <= 4e-16 * update.abs().max()
        if is_matrix(name, shape):
            count = math.ceil(round(percent * min(shape) / 100, 9))
            assert torch.linalg.matrix_rank(top[name]) == count
            expected = torch.linalg.svdvals(update)[:count]
            assert torch.allclose(torch.linalg.svdvals(top[name])[:count], expected)
        else:
            assert torch.equal(top[name], update)
            assert not bottom[name].any()


def test_other_tensors_are_the_bases_if_asked(pair: Pair) -> None:
    for kind in (TopComponents(10, other="base"), BottomComponents(10, other="base")):
        for name, tensor in weights(pair, [kind]).items():
            is_base = torch.equal(tensor, pair.base.read(name))
            assert is_base == (locate(name).kind not in ("attention", "mlp"))


def test_equal_budgets(pair: Pair, other_llama: Path) -> None:
    """Two runs' truncated updates have one norm per matrix, and keep their directions."""
    norms = update_norms(pair.base.directory, other_llama)
    plain, scaled = updates(pair, [TopComponents(10)]), updates(pair, [TopComponents(10, norm_like=str(other_llama))])
    for name, shape in pair.shapes.items():
        if is_matrix(name, shape):
            assert float(scaled[name].norm()) == pytest.approx(norms[name])
            assert torch.allclose(scaled[name] / scaled[name].norm(), plain[name] / plain[name].norm())
        else:
            assert torch.equal(scaled[name], plain[name])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0,), "percent: got 0, expected a finite number, above 0 and at most 100"),
        ((100.5,), "percent: got 100.5"),
        ((10, ""), "norm_like: got ''"),
        ((10, None, "zero"), "other: got 'zero', expected one of base, trained"),
    ],
)
def test_wrong_fields_of_top(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        TopComponents(*arguments)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1,), "percent: got -1"),
        ((1, None), "other: got None"),
    ],
)
def test_wrong_fields_of_bottom(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        BottomComponents(*arguments)
    assert message in str(caught.value)


@pytest.mark.parametrize("intervention", [TopComponents(1), BottomComponents(1)], ids=str)
def test_a_model_without_matrices(intervention: TopComponents | BottomComponents) -> None:
    with pytest.raises(ConfigurationError, match="none of the 2 tensors is an attention or MLP matrix"):
        intervention.check({"model.norm.weight": (4,), "model.layers.0.mlp.up_proj.bias": (4,)})
