import math

import pytest
import torch
from updates.test_spectrum import FAMILIES, METRICS

from effopd.errors import DataError
from effopd.updates import UpdateBlocks, gram_eigen, singular_vectors, spectrum


def in_blocks(update: torch.Tensor, rows: int) -> tuple[UpdateBlocks, list[tuple[int, int]]]:
    """Blocks of so many rows of the long side, and a list of the reads."""
    reads: list[tuple[int, int]] = []
    dim = 0 if update.shape[0] >= update.shape[1] else 1

    def read(start: int, stop: int) -> torch.Tensor:
        reads.append((start, stop))
        return update.narrow(dim, start, stop - start).clone()

    return UpdateBlocks(tuple(update.shape), read, rows * 8 * min(update.shape)), reads


@pytest.mark.parametrize("shape", [(90, 40), (40, 90), (50, 50)])
@pytest.mark.parametrize("family", FAMILIES)
def test_blocks_give_what_the_whole_gives(family, shape):
    torch.manual_seed(0)
    update = family(*shape)
    blocks, _ = in_blocks(update, 17)
    whole, parts = spectrum(update), spectrum(blocks)
    for name in METRICS:
        assert getattr(parts, name) == pytest.approx(getattr(whole, name), rel=1e-9)
    assert (parts.rank, parts.route, parts.changed_fraction) == (whole.rank, whole.route, whole.changed_fraction)
    vectors = singular_vectors(blocks, 3)
    product = update.double() @ vectors.right - vectors.left * vectors.singular_values
    assert product.abs().max() < 1e-6 * whole.spectral_norm


def test_every_row_is_read_and_no_block_is_larger_than_allowed():
    update = torch.randn(20, 70)
    blocks, reads = in_blocks(update, 16)
    assert reads == [(0, 16), (16, 32), (32, 48), (48, 64), (64, 70)]
    torch.testing.assert_close(torch.cat(list(blocks)).mT * blocks.scale, update.double(), rtol=0, atol=0)
    assert all(block.shape[0] <= 16 for block in blocks)


def test_what_fits_in_one_block_is_read_once_and_left_as_it_is():
    update = torch.randn(20, 70)
    before = update.clone()
    blocks, reads = in_blocks(update, 70)
    spectrum(blocks)
    singular_vectors(blocks)
    assert reads == [(0, 70)]
    assert torch.equal(update, before)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_refuses_what_is_not_finite_in_any_block(value):
    update = torch.ones(50, 4)
    update[45, 2] = value
    with pytest.raises(DataError, match="1 entries of 200"):
        in_blocks(update, 8)


def test_leading_vectors_by_lanczos_are_those_of_the_whole_decomposition():
    torch.manual_seed(0)
    update = torch.randn(300, 250, dtype=torch.float64) + 30 * (torch.randn(300, 4) @ torch.randn(4, 250))
    few, all_ = gram_eigen(update, vectors=True, k=5), gram_eigen(update, vectors=True)
    assert few.vectors.shape == (250, 5)
    torch.testing.assert_close((few.vectors * all_.vectors[:, :5]).sum(dim=0).abs(), torch.ones(5, dtype=torch.float64))
    torch.testing.assert_close(few.values, all_.values, rtol=0, atol=few.error)


def test_repeated_singular_values_get_as_many_directions():
    """A Krylov space holds one direction of each eigenspace; the others must not be missed."""
    update = torch.zeros(300, 250, dtype=torch.float64)
    update.fill_diagonal_(1.0)
    vectors = singular_vectors(update, 8)
    torch.testing.assert_close(vectors.left.mT @ vectors.left, torch.eye(8, dtype=torch.float64))
    torch.testing.assert_close(update @ vectors.right, vectors.left)


def test_a_decomposition_with_too_few_vectors_is_refused():
    update = torch.randn(300, 250)
    with pytest.raises(DataError, match="with 5 vectors, for 6 vectors"):
        singular_vectors(update, 6, eigen=gram_eigen(update, vectors=True, k=5))
    with pytest.raises(DataError, match="with none vectors"):
        singular_vectors(update, 6, eigen=gram_eigen(update))
