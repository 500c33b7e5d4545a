"""The algebra of extrapolated products, against the dense singular value decomposition in float64."""

import math

import pytest
import torch

from effopd.extrapolation.lora import difference, extrapolate_product

SCALES = (-0.5, 0.5, 2.0, 10.0)


def factors(m: int, n: int, rank: int, drift: float, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    """A and B at the anchor, and after a drift by this share of their size; B is much smaller, as it is early."""
    generator = torch.Generator().manual_seed(m * n + rank)

    def draw(rows: int, columns: int, size: float) -> torch.Tensor:
        return size * torch.randn(rows, columns, generator=generator, dtype=torch.float64)

    a, b = draw(rank, n, n**-0.5), draw(m, rank, 0.02)
    moved = a + drift * draw(rank, n, n**-0.5), b + drift * draw(m, rank, 0.02)
    return [each.to(dtype) for each in (a, b, *moved)]


def dense(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return b.double() @ a.double()


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("drift", [1e-4, 0.1, 1.0])
@pytest.mark.parametrize("shape", [(60, 40, 4), (40, 60, 16), (20, 30, 12), (9, 7, 8), (7, 9, 8)])
def test_it_is_the_best_approximation_of_its_rank(shape: tuple[int, int, int], drift: float, scale: float) -> None:
    """Also where 2r exceeds the matrix, and where r does."""
    a0, b0, a, b = factors(*shape, drift)
    wanted = dense(a, b) + scale * (dense(a, b) - dense(a0, b0))
    new_a, new_b, residual = extrapolate_product(a0, b0, a, b, scale)
    u, s, vh = torch.linalg.svd(wanted, full_matrices=False)
    rank = shape[2]
    best = u[:, :rank] * s[:rank] @ vh[:rank]
    kept = dense(new_a.float(), new_b.float())
    assert (kept - best).norm() <= 1e-5 * best.norm()
    jump = (scale * (dense(a, b) - dense(a0, b0))).norm()
    assert residual == pytest.approx(float(s[rank:].norm() / jump), rel=1e-5, abs=1e-9)
    assert new_a.shape == a.shape
    assert new_b.shape == b.shape


def test_the_factors_go_to_those_of_w_t_as_the_scale_goes_to_0() -> None:
    a0, b0, a, b = factors(60, 40, 8, 0.1, torch.float64)
    distances = []
    for scale in (1e-1, 1e-3, 1e-5, 1e-7):
        new_a, new_b, _ = extrapolate_product(a0, b0, a, b, scale)
        distances.append(max(float((new_a - a).norm() / a.norm()), float((new_b - b).norm() / b.norm())))
    for scale, distance in zip((1e-1, 1e-3, 1e-5, 1e-7), distances, strict=True):
        assert distance <= scale


def test_a_scale_of_0_and_a_product_that_did_not_move_keep_the_bits() -> None:
    a0, b0, a, b = factors(60, 40, 8, 0.1)
    for anchor, scale in (((a0, b0), 0.0), ((a, b), 10.0)):
        new_a, new_b, residual = extrapolate_product(*anchor, a, b, scale)
        assert torch.equal(new_a.float(), a)
        assert torch.equal(new_b.float(), b)
        assert residual == 0


@pytest.mark.parametrize("scale", SCALES)
def test_a_is_the_nearest_with_its_row_space_and_gram_matrix(scale: float) -> None:
    a0, b0, a, b = factors(60, 40, 8, 0.3, torch.float64)
    new_a, _, _ = extrapolate_product(a0, b0, a, b, scale)
    torch.testing.assert_close(new_a @ new_a.mT, a @ a.mT)
    u, s, vh = torch.linalg.svd(new_a, full_matrices=False)
    generator = torch.Generator().manual_seed(0)
    for size in (1e-3, 1e-1, 10.0):
        skew = size * torch.randn(8, 8, generator=generator, dtype=torch.float64)
        other = (u * s) @ u.mT @ u @ torch.linalg.matrix_exp(skew - skew.mT) @ vh
        torch.testing.assert_close(other @ other.mT, a @ a.mT)
        assert (new_a - a).norm() < (other - a).norm()


def test_from_an_anchor_of_0_only_b_grows() -> None:
    """The first trigger of a new adapter, whose B is 0: rank r is exact there."""
    a0, b0, _, b = factors(60, 40, 8, 0.3)
    new_a, new_b, residual = extrapolate_product(a0, torch.zeros_like(b0), a0, b, 4.0)
    torch.testing.assert_close(new_a.float(), a0)
    torch.testing.assert_close(new_b.float(), 5 * b)
    assert residual < 1e-12


def test_products_of_less_than_full_rank() -> None:
    """Columns of B that are 0 leave rows of A undetermined; they stay what they were."""
    a0, b0, a, b = factors(60, 40, 8, 0.3)
    for each in (b0, b):
        each[:, 3:] = 0
    new_a, new_b, _ = extrapolate_product(a0, torch.zeros_like(b0), a0, b, 4.0)
    torch.testing.assert_close(new_a.float(), a0)
    torch.testing.assert_close(new_b.float(), 5 * b)
    new_a, new_b, residual = extrapolate_product(a0, b0, a, b, 4.0)  # of rank 6
    torch.testing.assert_close(dense(new_a, new_b), 5 * dense(a, b) - 4 * dense(a0, b0))
    assert residual < 1e-6
    new_a, new_b, _ = extrapolate_product(a0, b0, torch.zeros_like(a0), b, 4.0)  # an A that is 0 has no rows to keep
    torch.testing.assert_close(dense(new_a, new_b), -4 * dense(a0, b0))


def test_values_that_are_not_finite_give_no_factors() -> None:
    a0, b0, a, b = factors(6, 4, 2, 0.3)
    b[0, 0] = math.inf
    new_a, new_b, residual = extrapolate_product(a0, b0, a, b, 2.0)
    assert math.isnan(residual)
    assert new_a.isnan().all()
    assert new_b.isnan().all()


@pytest.mark.parametrize("drift", [1e-9, 1e-3, 1.0])
def test_norms_and_inner_products(drift: float) -> None:
    a0, b0, a, b = factors(30, 20, 4, drift, torch.float64)
    delta, other = difference(a0, b0, a, b), difference(b0.mT, a0.mT, b.mT, a.mT)
    exact = (b - b0) @ a + b0 @ (a - a0)
    torch.testing.assert_close(delta.norm_squared().sqrt(), exact.norm(), rtol=1e-6, atol=0)
    torch.testing.assert_close(delta.inner(delta), exact.square().sum(), rtol=1e-6, atol=0)
    torch.testing.assert_close(other.norm_squared(), delta.norm_squared(), rtol=1e-6, atol=0)
