"""Eigendecomposition of an update's Gram matrix, which is the cheap way to its spectrum, with an estimate of its error.

The smaller of `dW dW^T` and `dW^T dW` has the squared singular values of `dW` as its eigenvalues, and costs a fraction
of an SVD. But squaring has a price: the absolute error of every eigenvalue is proportional to the largest one, so that
singular values far below the first are lost. `GramEigen.error` states that error, so that its users can decide whether
it is small enough.

Shape suffixes: m rows, n columns, r = min(m, n).
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from effopd.updates.blocks import UpdateBlocks

Precision = Literal["float64", "float32"]

_KRYLOV_SHARE = 10  # Lanczos iteration is the cheaper way to at most r / 10 vectors
_NUM_PROBES = 8


@dataclass(frozen=True, eq=False)
class GramEigen:
    """Eigenvalues, and perhaps eigenvectors, of the Gram matrix of the short side of `dW / scale`.

    Attributes:
        values: Eigenvalues, float64 [r], descending and not negative. `scale * sqrt(values)` are the singular values.
        vectors: Unit eigenvectors as columns in the order of `values`, float64 [r, k]; None if they were not asked for.
        image: Product of the blocks and `vectors`, float64 [max(m, n), k]; None if k was not given.
        error: Estimated absolute error of each of the eigenvalues (see `gram_eigen`).
        frobenius: Frobenius norm of dW / scale, computed from its entries.
        ritz_value: `||A x||^2`, where A is the matrix itself and x a unit vector near the first eigenvector. It is a
            lower bound of sigma_1^2 in which neither the Gram matrix nor the eigensolver has a part.
        dtype: Precision in which the Gram matrix was computed.
        blocks: The matrix.
    """

    values: Tensor
    vectors: Tensor | None
    image: Tensor | None
    error: float
    frobenius: float
    ritz_value: float
    dtype: Precision
    blocks: UpdateBlocks

    @property
    def scale(self) -> float:
        """Power of two by which the matrix was divided."""
        return self.blocks.scale


def gram_eigen(
    update: Tensor | UpdateBlocks, *, vectors: bool = False, k: int | None = None, dtype: Precision = "float64"
) -> GramEigen:
    """Decompose the Gram matrix of an update's short side.

    In float64, the error of an eigenvalue is estimated as `4 sqrt(max(m, n)) * eps * lambda_1`. This is more than twice
    the largest error that was found in comparison with an SVD over many shapes and spectra, and 10 to 100 times a
    typical one. In float32, the error of the Gram matrix is measured instead: a few random vectors are multiplied by it
    and, in float64, by the matrix itself.

    On the CPU the Gram matrix is computed by `syrk` of BLAS, which exploits the symmetry and needs no second r x r
    matrix. `OMP_NUM_THREADS` sets its number of threads.

    Args:
        update: dW, float32 or float64 [m, n], or its blocks.
        vectors: Whether eigenvectors are computed, too. All of them together take about three times as long as the
            eigenvalues.
        k: Number of first eigenvectors to compute by Lanczos iteration, which takes little time; None for all. If their
            Ritz values do not agree with the eigenvalues, the iteration has missed a direction, and all eigenvectors
            are computed instead.
        dtype: Precision in which the Gram matrix is computed. `float32` takes half the time, but loses singular values
            below some 1e-4 to 1e-3 of the first one. Eigenvalues are computed in float64 in both cases.

    Raises:
        DataError: `update` is not a matrix of finite float32 or float64 numbers.
    """
    blocks = UpdateBlocks.of(update)
    gram, frobenius = _gram(blocks, dtype)
    basis: Tensor | None = None
    if vectors and k is None:
        values, basis = torch.linalg.eigh(gram, UPLO="L")
    else:
        values = torch.linalg.eigvalsh(gram, UPLO="L")
        if vectors and k is not None and (basis := _lanczos(gram, values, k)) is None:
            values, basis = torch.linalg.eigh(gram, UPLO="L")
            basis = basis[:, -k:]
    values = values.flip(0).clamp_(min=0)
    basis = basis if basis is None else basis.flip(1)
    error = 4 * math.sqrt(max(blocks.shape)) * torch.finfo(torch.float64).eps * float(values[0])
    if dtype == "float32":
        error += _measured_error(blocks, gram)
    image = blocks @ (_power_iteration(gram) if basis is None else basis if k is not None else basis[:, :1])
    ritz_value = float(image[:, 0].square().sum())
    return GramEigen(values, basis, image if k is not None else None, error, frobenius, ritz_value, dtype, blocks)


def _gram(blocks: UpdateBlocks, dtype: Precision) -> tuple[Tensor, float]:
    """Compute the Gram matrix, float64 [r, r], of which only the lower triangle counts, and the Frobenius norm."""
    on_cpu: NDArray[np.float64] | None = None
    total: Tensor | None = None
    square_sum = 0.0
    for block in blocks:
        square_sum += float(torch.linalg.vector_norm(block)) ** 2
        factor = block.to(getattr(torch, dtype))
        if factor.device.type == "cpu":
            on_cpu = _add_syrk(factor, on_cpu)
        else:
            product = (factor.mT @ factor).double()
            total = product if total is None else total.add_(product)
    if on_cpu is not None:
        total = torch.from_numpy(on_cpu)
    assert total is not None
    return total, math.sqrt(square_sum)


def _add_syrk(factor: Tensor, total: NDArray[np.float64] | None) -> NDArray[np.float64]:
    """Compute the lower triangle of `total + factor^T factor` in Fortran order, in place if that is possible."""
    from scipy.linalg.blas import dsyrk, ssyrk

    array = factor.numpy()
    # BLAS reads matrices column by column, so a row-major block is read as its transpose.
    operand, trans = (array.T, 0) if array.flags.c_contiguous else (array, 1)
    if total is None:
        total = np.zeros((factor.shape[1], factor.shape[1]), order="F")
    if factor.dtype == torch.float32:
        total += ssyrk(1.0, operand, trans=trans, lower=1)
        return total
    result: NDArray[np.float64] = dsyrk(1.0, operand, beta=1.0, c=total, trans=trans, lower=1, overwrite_c=1)
    return result


def _lanczos(gram: Tensor, values: Tensor, k: int) -> Tensor | None:
    """Compute eigenvectors of the k largest eigenvalues in ascending order; None if they do not belong to `values`."""
    if gram.device.type != "cpu" or k * _KRYLOV_SHARE > len(gram):
        return None
    from scipy.linalg.blas import dsymv
    from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh

    array = gram.numpy()
    product = LinearOperator(array.shape, lambda x: dsymv(1.0, array, x, lower=1), dtype=np.float64)
    start = np.random.default_rng(0).standard_normal(len(gram))
    try:
        found, vectors = eigsh(product, k=k, v0=start)
    except ArpackError:  # the iteration has not converged within its limit
        return None
    tolerance = len(gram) * np.finfo(np.float64).eps * float(values[-1])
    if not np.allclose(found, values[-k:].numpy(), rtol=0, atol=tolerance):
        return None
    return torch.from_numpy(vectors)


def _power_iteration(gram: Tensor) -> Tensor:
    """Compute a unit vector [r, 1] near the first eigenvector."""
    vector = gram.new_zeros(len(gram), 1)
    vector[gram.diagonal().argmax()] = 1.0
    for _ in range(4):
        vector = _symmetric_product(gram, vector)
        norm = torch.linalg.vector_norm(vector)
        if norm == 0:
            break
        vector = vector / norm
    return vector


def _symmetric_product(lower: Tensor, columns: Tensor) -> Tensor:
    """Multiply a symmetric matrix, of which only the lower triangle counts, by columns [r, K]."""
    if lower.device.type != "cpu":
        return lower @ columns  # on other devices the matrix is complete
    from scipy.linalg.blas import dsymm

    return torch.from_numpy(dsymm(1.0, lower.numpy(), columns.numpy(), lower=1))


def _measured_error(blocks: UpdateBlocks, gram: Tensor) -> float:
    """Compute four times the largest `||(gram - A^T A) x||` over random unit vectors x, where A are the blocks."""
    generator = torch.Generator().manual_seed(0)
    probes = torch.randn(len(gram), _NUM_PROBES, dtype=torch.float64, generator=generator).to(gram)
    probes /= torch.linalg.vector_norm(probes, dim=0)
    errors = _symmetric_product(gram, probes)
    for block in blocks:
        errors -= block.mT @ (block @ probes)
    return 4 * float(torch.linalg.vector_norm(errors, dim=0).max())
