"""Spectral metrics of one update matrix, which tell how concentrated it is (arXiv 2605.11739, Table 1).

The singular values are found in the following way, which is why the result can be trusted:

1. The eigenvalues of the float64 Gram matrix (`gram_eigen`) are the squared singular values, with an absolute error of
   at most `e` by an estimate. A singular value is then known to within `e / sigma_i`: the largest ones are exact,
   and those below `sqrt(e)`, which is some 1e-7 to 1e-6 of sigma_1, are not known at all. Norms do not depend on those.
   The effective rank does, because it weighs thousands of small values by `log p_i`. The rank does, too, because it
   counts them, and so does the `k` of the top-1 % ratio.
2. The errors are therefore carried through each formula (`_from_gram`). The Gram route is kept only if the metrics are
   right to 5e-7 *and* the rank is certain. The rank is certain to be full if the smallest eigenvalue exceeds `2 e`, or
   if an estimate of the condition of a triangular factor proves it, at a tenth of the cost of an SVD.
3. Two more checks, which do not depend on the eigensolver, have to hold: the eigenvalues sum to the squared Frobenius
   norm of the matrix, and a Ritz value of the matrix itself does not exceed the largest eigenvalue.
4. Otherwise the singular values are those of the float64 SVD of the triangular factor of a QR decomposition, at two to
   four times the cost of the Gram route. This is the case for updates of low rank and for very steep spectra.

If a singular value lies at the threshold of the rank, the matrix does not determine the rank to working precision, and
no route can.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from scipy.linalg.lapack import dgecon, dgetrf, dtpqrt, dtrcon
from torch import Tensor

from effopd.errors import DataError
from effopd.updates.blocks import UpdateBlocks
from effopd.updates.gram import GramEigen, Precision, gram_eigen

_MAX_GRAM_ERROR = 5e-7
RANK_EPS = 2.2e-16  # multiplied by max(rows, cols) and sigma_1, it is the least singular value that counts
_PANEL = 64  # number of columns that LAPACK factors at a time

Route = Literal["zero", "gram", "svd", "gram_float32"]


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Singular values of one update matrix dW [m, n] and what follows from them.

    Attributes:
        singular_values: Singular values, float64 [min(m, n)], descending, on the device of the update. If they come
            from a Gram matrix, those far below the first are less exact than the metrics (see this module).
        frobenius_norm: `sqrt(sum_ij dW_ij^2)`.
        spectral_norm: sigma_1.
        spectral_to_frobenius: sigma_1 / Frobenius norm, in [1/sqrt(rank), 1]; None for an update of zeros.
        effective_rank: `exp(-sum_i p_i log p_i)`, `p_i = sigma_i / sum_j sigma_j`, over the first `rank` values: in
            [1, rank], and 0 for an update of zeros.
        top1pct_norm_ratio: `sqrt(sum_{i<=k} sigma_i^2 / sum_j sigma_j^2)`, `k = ceil(rank / 100)`, in (0, 1]; None for
            an update of zeros.
        rank: Number of singular values above `max(m, n) * 2.2e-16 * sigma_1`, or on the float32 route, of those above
            the resolution of that route.
        changed_fraction: Share of the entries of dW that are not zero.
        route: Way in which the values were found: `gram` or `svd`, both in float64, `gram_float32`, or `zero`.
        relative_error: Estimated upper bound of the relative error of each of the metrics above.
    """

    singular_values: Tensor
    frobenius_norm: float
    spectral_norm: float
    spectral_to_frobenius: float | None
    effective_rank: float
    top1pct_norm_ratio: float | None
    rank: int
    changed_fraction: float
    route: Route
    relative_error: float


def spectrum(
    update: Tensor | UpdateBlocks, *, eigen: GramEigen | None = None, dtype: Precision = "float64"
) -> Spectrum:
    """Compute the spectral metrics of an update matrix.

    Args:
        update: dW, float32 or float64 [m, n], which is the exact difference of the stored weights; or its blocks, so
            that a large matrix need not be held whole.
        eigen: Result of `gram_eigen(update)`, if there is one already. It then decides the precision.
        dtype: Precision of the Gram matrix. With `float64`, the metrics of any matrix agree with a float64 SVD to 1e-6
            or better. `float32` takes half the time, and no SVD follows unless the checks fail. Norms are then right to
            1e-6. The effective rank is right to 1e-5, or to some 1e-3 if the matrix is square or its spectrum is steep.
            For a matrix of low rank plus a little noise, the rank counts only what is resolved, and so does the k of
            the top-1 % ratio. `relative_error` covers all of this.

    Raises:
        DataError: `update` is not a matrix of finite float32 or float64 numbers, or `eigen` is of another matrix.
    """
    blocks = eigen.blocks if eigen else UpdateBlocks.of(update)
    if tuple(update.shape) != blocks.shape:
        raise DataError(
            f"Got the eigenvalues of a matrix of shape {blocks.shape} for an update of shape {tuple(update.shape)}. "
            "Pass gram_eigen(update), or leave `eigen` out."
        )
    changed_fraction = blocks.num_nonzero / math.prod(blocks.shape)
    if changed_fraction == 0:
        zeros = torch.zeros(min(blocks.shape), dtype=torch.float64, device=getattr(update, "device", None))
        return Spectrum(zeros, 0.0, 0.0, None, 0.0, None, 0, 0.0, "zero", 0.0)
    eigen = eigen or gram_eigen(blocks, dtype=dtype)
    scale, frobenius = blocks.scale, eigen.frobenius
    found = _from_gram(eigen)
    if found is None or (found.route == "gram" and found.rank < len(eigen.values)):
        if found and _has_full_rank(blocks, found.sigma[0]):
            found = found._replace(rank=len(found.sigma))
        else:
            found = _from_svd(blocks)
    sigma, rank, route, relative_error = found
    spectral, top = float(sigma[0]), math.ceil(rank / 100)
    return Spectrum(
        singular_values=sigma * scale,
        frobenius_norm=frobenius * scale,
        spectral_norm=spectral * scale,
        spectral_to_frobenius=min(spectral / frobenius, 1.0),
        effective_rank=math.exp(_entropy(sigma[:rank])),
        top1pct_norm_ratio=min(float(torch.linalg.vector_norm(sigma[:top])) / frobenius, 1.0),
        rank=rank,
        changed_fraction=changed_fraction,
        route=route,
        relative_error=relative_error,
    )


class _Values(NamedTuple):
    sigma: Tensor
    rank: int
    route: Route
    relative_error: float


def _from_gram(eigen: GramEigen) -> _Values | None:
    """Take the Gram route; None if the checks fail or, in float64, if the metrics or the rank are in doubt."""
    values, error, short = eigen.values, eigen.error, len(eigen.values)
    if abs(float(values.sum()) - eigen.frobenius**2) > short * error or eigen.ritz_value > float(values[0]) + error:
        return None
    sigma, resolved = values.sqrt(), values > error
    rank = int(resolved.sum())
    # |a - b| = |a^2 - b^2| / (a + b), and never more than sqrt(|a^2 - b^2|).
    deviations = torch.where(resolved, error / sigma, math.sqrt(2 * error))
    top, most = (float(values[: math.ceil(count / 100)].sum()) for count in (rank, short))
    ratio_error = math.sqrt(most / top) - 1 + math.ceil(rank / 100) * error / top
    relative_error = max(_effective_rank_error(sigma, deviations), ratio_error)
    if eigen.dtype == "float32":
        return _Values(sigma, rank, "gram_float32", relative_error)
    if relative_error > _MAX_GRAM_ERROR:
        return None
    return _Values(sigma, int((values > 2 * error).sum()), "gram", relative_error)


def _has_full_rank(blocks: UpdateBlocks, spectral: Tensor) -> bool:
    """Tell whether the smallest singular value certainly exceeds the threshold of the rank.

    It is at least `1 / (sqrt(r) ||A^-1||_1)` for a square A, which is dW itself or its triangular factor. LAPACK's
    estimate of that norm may be too small, though rarely by more than a third; here it may be ten times too small.
    """
    if spectral.device.type != "cpu":
        return False
    long, short = max(blocks.shape), min(blocks.shape)
    if long == short and len(whole := list(blocks)) == 1:
        norm = float(torch.linalg.matrix_norm(whole[0], 1))
        factors, _, _ = dgetrf(whole[0].numpy())
        reciprocal_condition, _ = dgecon(factors, norm)
    else:
        factor = _triangular_factor(blocks)
        norm = float(torch.linalg.matrix_norm(factor, 1))
        reciprocal_condition, _ = dtrcon(factor.numpy())
    return bool(reciprocal_condition * norm / (10 * math.sqrt(short)) > long * RANK_EPS * float(spectral))


def _from_svd(blocks: UpdateBlocks) -> _Values:
    sigma = torch.linalg.svdvals(_triangular_factor(blocks))
    tolerance = max(blocks.shape) * RANK_EPS * float(sigma[0])
    rank = int((sigma > tolerance).sum())
    return _Values(sigma, rank, "svd", _effective_rank_error(sigma[:rank], torch.full_like(sigma[:rank], tolerance)))


def _triangular_factor(blocks: UpdateBlocks) -> Tensor:
    """Compute R of the QR decomposition of the tall matrix, whose singular values are those of the matrix.

    This goes block by block. It needs no more space than R and one block, which LAPACK's `tpqrt` overwrites.
    """
    factor: Any = None
    for block in blocks:
        if block.device.type != "cpu":
            stacked = block if factor is None else torch.cat([factor, block])
            factor = torch.linalg.qr(stacked, mode="r").R
            continue
        if factor is None:
            factor = np.zeros((block.shape[1], block.shape[1]), order="F")
        copy = np.array(block.numpy(), order="F")
        factor, *_ = dtpqrt(0, min(_PANEL, len(factor)), factor, copy, overwrite_a=1, overwrite_b=1)
    return torch.from_numpy(np.triu(factor)) if isinstance(factor, np.ndarray) else factor


def _entropy(sigma: Tensor) -> float:
    """Compute `-sum_i p_i log p_i` for `p = sigma / sum(sigma)`."""
    p = sigma / sigma.sum()
    return -float(torch.xlogy(p, p).sum())


def _effective_rank_error(sigma: Tensor, deviations: Tensor) -> float:
    """Estimate the relative error of the effective rank from the deviations of the singular values.

    It is the error of the entropy H, whose exponential the effective rank is. To first order that error is
    `sum_i |log p_i + H| * deviation_i / sum_i sigma_i`. If a value is smaller than its deviation, the logarithm is
    taken at the deviation.
    """
    total = sigma.sum()
    logs = (torch.maximum(sigma, deviations) / total).log()
    return float(((logs.abs() + _entropy(sigma)) * deviations).sum() / total)
