import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from effopd.errors import DataError
from effopd.updates import gram_eigen, spectrum

METRICS = ("spectral_norm", "spectral_to_frobenius", "effective_rank", "top1pct_norm_ratio")
SHAPES = [(120, 120), (100, 260), (260, 100)]


def normal(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def orthonormal(rows, columns):
    return torch.linalg.qr(normal(rows, columns))[0]


def with_singular_values(rows, columns, sigma):
    sigma = torch.as_tensor(sigma, dtype=torch.float64)
    return orthonormal(rows, len(sigma)) * sigma @ orthonormal(columns, len(sigma)).mT


def low_rank_and_noise(m, n):
    return normal(m, 16) @ normal(16, n) + 0.3 * normal(m, n)


def low_rank_and_little_noise(m, n):
    return normal(m, 16) @ normal(16, n) + 1e-5 * normal(m, n)


def rank_1(m, n):
    return torch.outer(normal(m), normal(n))


def rank_16(m, n):
    return normal(m, 16) @ normal(16, n)


def rank_16_in_float32(m, n):
    return torch.randn(m, 16) @ torch.randn(16, n)


def spike(m, n):
    noise = normal(m, n)
    return noise + 100 * torch.linalg.svdvals(noise)[0] * orthonormal(m, 1) @ orthonormal(n, 1).mT


def flat(m, n):
    return with_singular_values(m, n, torch.ones(min(m, n)))


def merged_lora(m, n):
    base = (0.02 * normal(m, n)).bfloat16().double()
    return (base + 2e-4 * normal(m, 16) @ normal(16, n)).bfloat16().double() - base


def merged_lora_in_float32(m, n):
    base = 0.02 * torch.randn(m, n)
    return (base + 2e-4 * torch.randn(m, 16) @ torch.randn(16, n)).double() - base.double()


def sparse(m, n):
    return torch.where(torch.rand(m, n) < 0.02, normal(m, n), 0.0)


def steep(m, n):
    return with_singular_values(m, n, torch.logspace(0, -9, min(m, n)))


FAMILIES = [
    low_rank_and_noise,
    low_rank_and_little_noise,
    rank_1,
    rank_16,
    rank_16_in_float32,
    spike,
    flat,
    merged_lora,
    merged_lora_in_float32,
    sparse,
    steep,
]


def by_numpy(update):
    sigma = np.linalg.svd(update.double().numpy(), compute_uv=False)
    rank = int((sigma > max(update.shape) * 2.2e-16 * sigma[0]).sum())
    p = sigma[:rank] / sigma[:rank].sum()
    frobenius = np.sqrt((sigma**2).sum())
    top = np.sqrt((sigma[: math.ceil(rank / 100)] ** 2).sum())
    return rank, sigma, (sigma[0], sigma[0] / frobenius, np.exp(-(p * np.log(p)).sum()), top / frobenius)


def metrics(result):
    return tuple(getattr(result, name) for name in METRICS)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_agrees_with_the_float64_svd(family, shape):
    torch.manual_seed(0)
    update = family(*shape)
    rank, sigma, expected = by_numpy(update)
    result = spectrum(update)
    assert metrics(result) == pytest.approx(expected, rel=1e-9)
    assert result.rank == rank
    assert result.relative_error <= 1e-7
    assert result.frobenius_norm == pytest.approx(np.linalg.norm(update.double()), rel=1e-12)
    np.testing.assert_allclose(result.singular_values, sigma, rtol=0, atol=1e-9 * sigma[0])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_float32_route_states_its_error(family, shape):
    torch.manual_seed(0)
    update = family(*shape)
    _, _, expected = by_numpy(update)
    result = spectrum(update, dtype="float32")
    assert result.route == "gram_float32"
    errors = [abs(got / want - 1) for got, want in zip(metrics(result), expected, strict=True)]
    assert max(errors) <= result.relative_error + 1e-12
    assert max(errors[:2]) <= 1e-6


@pytest.mark.parametrize(
    ("family", "route"), [(low_rank_and_noise, "gram"), (merged_lora, "gram"), (rank_16, "svd"), (steep, "svd")]
)
def test_squares_only_where_squaring_loses_nothing(family, route):
    torch.manual_seed(0)
    assert spectrum(family(100, 260)).route == route


def test_known_spectrum():
    torch.manual_seed(0)
    result = spectrum(with_singular_values(150, 300, torch.arange(150, 0, -1)))
    squares = [i * i for i in range(1, 151)]
    assert result.spectral_norm == pytest.approx(150)
    assert result.frobenius_norm == pytest.approx(math.sqrt(sum(squares)))
    assert result.top1pct_norm_ratio == pytest.approx(math.sqrt((150**2 + 149**2) / sum(squares)))  # k = ceil(1.5)
    assert (result.rank, result.changed_fraction) == (150, 1)


def test_flat_and_rank_1_are_the_extremes_of_effective_rank():
    torch.manual_seed(0)
    assert spectrum(flat(64, 90)).effective_rank == pytest.approx(64)
    assert spectrum(rank_1(64, 90)).effective_rank == pytest.approx(1)
    assert spectrum(rank_1(64, 90)).spectral_to_frobenius == pytest.approx(1)


def test_zeros():
    result = spectrum(torch.zeros(5, 7))
    assert (result.frobenius_norm, result.spectral_norm, result.effective_rank, result.rank) == (0, 0, 0, 0)
    assert result.spectral_to_frobenius is None
    assert result.top1pct_norm_ratio is None
    assert (result.route, result.changed_fraction) == ("zero", 0)
    assert result.singular_values.tolist() == [0] * 5


@pytest.mark.parametrize("family", [low_rank_and_noise, rank_16])
def test_invariances(family):
    torch.manual_seed(0)
    update = family(80, 130)
    expected = metrics(spectrum(update))
    assert metrics(spectrum(update.mT)) == pytest.approx(expected, rel=1e-10)
    rotated = orthonormal(80, 80) @ update @ orthonormal(130, 130)
    assert metrics(spectrum(rotated)) == pytest.approx(expected, rel=1e-10)
    for scale in (2.0**900, 2.0**-900):  # squares would overflow, underflow
        norm, *ratios = metrics(spectrum(scale * update))
        assert norm == scale * expected[0]
        assert tuple(ratios) == expected[1:]


def test_the_smallest_numbers_there_are():
    assert spectrum(torch.full((3, 4), 5e-324, dtype=torch.float64)).rank == 1
    assert spectrum(torch.full((3, 4), 1e-45)).rank == 1


def test_changed_fraction_counts_entries():
    update = torch.zeros(4, 5)
    update[0, 1] = update[2, 3] = 1e-30
    assert spectrum(update).changed_fraction == 0.1


def test_an_existing_decomposition_is_used():
    torch.manual_seed(0)
    update = low_rank_and_noise(40, 70)
    shared = spectrum(update, eigen=gram_eigen(update, vectors=True))
    assert metrics(shared) == pytest.approx(metrics(spectrum(update)), rel=1e-12)
    assert spectrum(update, eigen=gram_eigen(update, dtype="float32")).route == "gram_float32"
    with pytest.raises(DataError, match="of shape \\(30, 70\\) for an update of shape \\(40, 70\\)"):
        spectrum(update, eigen=gram_eigen(update[:30]))


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_wrong_eigenvalues_are_not_believed(dtype):
    torch.manual_seed(0)
    update = low_rank_and_noise(40, 70) + 100 * rank_1(40, 70)
    eigen = gram_eigen(update, dtype=dtype)
    assert spectrum(update, eigen=eigen).route != "svd"
    shift = torch.zeros_like(eigen.values)
    shift[0] = -1e-4 * eigen.values[0]  # the trace does not fit
    assert spectrum(update, eigen=replace(eigen, values=eigen.values + shift)).route == "svd"
    shift[1] = -shift[0]  # it does, but the first value is too small
    assert spectrum(update, eigen=replace(eigen, values=eigen.values + shift)).route == "svd"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_refuses_what_is_not_finite(value):
    update = torch.ones(3, 4)
    update[1, 2] = value
    with pytest.raises(DataError, match="1 entries of 12"):
        spectrum(update)


@pytest.mark.parametrize("update", [torch.ones(3), torch.ones(0, 3), torch.ones(2, 2).bfloat16(), torch.ones(1, 2, 3)])
def test_refuses_what_is_not_an_update_matrix(update):
    with pytest.raises(DataError, match=r"trained\.double\(\) - base\.double\(\)"):
        spectrum(update)
