"""Eigendecomposition of the Gram matrix of an update: the cheap way to its spectrum, and how far it can be trusted.

The smaller of `dW dW^T` and `dW^T dW` has the squared singular values of `dW` as its eigenvalues, at a fraction of the
cost of an SVD. Squaring has a price: every eigenvalue carries an absolute error proportional to the largest one,
whatever its own size, so singular values far below the first are lost. `GramEigen.error` states that error, and its
users decide by it.

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

_KRYLOV_SHARE = 10  # Lanczos pays for at most r / 10 vectors
_NUM_PROBES = 8


@dataclass(frozen=True, eq=False)
class GramEigen:
    """Eigenvalues, and perhaps eigenvectors, of the short side's Gram matrix of `dW / blocks.scale`.

    Attributes:
        values: float64 [r], descending, not negative; `scale * sqrt(values)` are the singular values.
        vectors: float64 [r, k], a unit eigenvector per column in the order of `values`; None if not asked for.
        image: The blocks times `vectors`, float64 [max(m, n), k]; None if k was not given.
        error: Absolute error of each entry of `values`, estimated (see `gram_eigen`).
        frobenius: Frobenius norm of dW / scale, from its entries.
        ritz_value: `||A x||^2` of the matrix A itself, for a unit vector x near the first eigenvector of the product: a
            lower bound of sigma_1^2 that neither the product nor the eigensolver had a part in.
        dtype: Arithmetic of the product.
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
        """The power of two that the matrix was divided by."""
        return self.blocks.scale


def gram_eigen(
    update: Tensor | UpdateBlocks, *, vectors: bool = False, k: int | None = None, dtype: Precision = "float64"
) -> GramEigen:
    """Decompose the Gram matrix of an update's short side.

    In float64 the error of an eigenvalue is estimated as `4 sqrt(max(m, n)) * eps * lambda_1`: more than twice the
    worst found against an SVD over many shapes and spectra, and 10 to 100 times what is typical. In float32 the error
    of the product is measured instead: it is applied to a few random vectors, and so is the matrix itself, in float64.

    On the CPU the product goes through BLAS's `syrk`, which exploits its symmetry and needs no second r x r matrix;
    `OMP_NUM_THREADS` sets its threads.

    Args:
        update: dW, float32 or float64 [m, n], or its blocks.
        vectors: Whether eigenvectors are wanted too: all of them (about three times the cost of the values), or k.
        k: Only the first k eigenvectors, by Lanczos iteration, at little cost. They are kept only if their Ritz values
            agree with the eigenvalues, which finds directions that the iteration missed; otherwise all are computed.
        dtype: Arithmetic of the product. `float32` takes half its time and loses singular values below some 1e-4 to
            1e-3 of the first. The eigenvalues of the product are found in float64 either way.

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
    """The lower triangle of the Gram matrix, float64 [r, r] (above it anything), and the Frobenius norm."""
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
    """`total + factor^T factor`, in place where it can be, as its lower triangle in Fortran order."""
    from scipy.linalg.blas import dsyrk, ssyrk

    array = factor.numpy()
    # BLAS reads columns: the transpose of a row-major block is one as it lies.
    operand, trans = (array.T, 0) if array.flags.c_contiguous else (array, 1)
    if total is None:
        total = np.zeros((factor.shape[1], factor.shape[1]), order="F")
    if factor.dtype == torch.float32:
        total += ssyrk(1.0, operand, trans=trans, lower=1)
        return total
    result: NDArray[np.float64] = dsyrk(1.0, operand, beta=1.0, c=total, trans=trans, lower=1, overwrite_c=1)
    return result


def _lanczos(gram: Tensor, values: Tensor, k: int) -> Tensor | None:
    """Eigenvectors of the k largest eigenvalues in ascending order; None if they are not those of `values`."""
    if gram.device.type != "cpu" or k * _KRYLOV_SHARE > len(gram):
        return None
    from scipy.linalg.blas import dsymv
    from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh

    array = gram.numpy()
    product = LinearOperator(array.shape, lambda x: dsymv(1.0, array, x, lower=1), dtype=np.float64)
    start = np.random.default_rng(0).standard_normal(len(gram))
    try:
        found, vectors = eigsh(product, k=k, v0=start)
    except ArpackError:  # no convergence within its limit
        return None
    tolerance = len(gram) * np.finfo(np.float64).eps * float(values[-1])
    if not np.allclose(found, values[-k:].numpy(), rtol=0, atol=tolerance):
        return None
    return torch.from_numpy(vectors)


def _power_iteration(gram: Tensor) -> Tensor:
    """A unit vector [r, 1] near the first eigenvector."""
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
    """Product of a symmetric matrix, given by its lower triangle, with columns [r, K]."""
    if lower.device.type != "cpu":
        return lower @ columns  # there it is whole
    from scipy.linalg.blas import dsymm

    return torch.from_numpy(dsymm(1.0, lower.numpy(), columns.numpy(), lower=1))


def _measured_error(blocks: UpdateBlocks, gram: Tensor) -> float:
    """Four times the largest `||(gram - A^T A) x||` over random unit vectors x, A the blocks."""
    generator = torch.Generator().manual_seed(0)
    probes = torch.randn(len(gram), _NUM_PROBES, dtype=torch.float64, generator=generator).to(gram)
    probes /= torch.linalg.vector_norm(probes, dim=0)
    errors = _symmetric_product(gram, probes)
    for block in blocks:
        errors -= block.mT @ (block @ probes)
    return 4 * float(torch.linalg.vector_norm(errors, dim=0).max())
