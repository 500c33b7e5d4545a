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

import torch
from torch import Tensor

from effopd.errors import DataError


@dataclass(frozen=True, eq=False)
class GramEigen:
    """Eigenvalues, and perhaps eigenvectors, of the short side's Gram matrix of `dW / scale`.

    Attributes:
        values: float64 [r], descending, not negative; `scale * sqrt(values)` are the singular values.
        vectors: float64 [r, r], a unit eigenvector per column in the order of `values`; None if not asked for.
        scale: A power of two that keeps the squares from overflowing and underflowing.
        error: Absolute error of each entry of `values`, estimated (see `gram_eigen`).
        dtype: Arithmetic of the product.
    """

    values: Tensor
    vectors: Tensor | None
    scale: float
    error: float
    dtype: Literal["float64", "float32"]


def gram_eigen(update: Tensor, *, vectors: bool = False, dtype: Literal["float64", "float32"] = "float64") -> GramEigen:
    """Decompose the Gram matrix of an update's short side.

    In float64 the error of an eigenvalue is estimated as `4 sqrt(max(m, n)) * eps * lambda_1`: more than twice the
    worst found against an SVD over many shapes and spectra, and 10 to 100 times what is typical. In float32 the error
    of the product is measured instead: it is applied to a few random vectors, and so is the matrix itself, in float64.

    On the CPU the product goes through NumPy, whose BLAS exploits its symmetry; `OMP_NUM_THREADS` sets its threads.

    Args:
        update: dW, float32 or float64 [m, n].
        vectors: Whether eigenvectors are wanted too (about three times the cost).
        dtype: Arithmetic of the product. `float32` takes half its time and loses singular values below some 1e-4 to
            1e-3 of the first. The eigenvalues of the product are found in float64 either way.

    Raises:
        DataError: `update` is not a matrix of finite float32 or float64 numbers.
    """
    scale = power_of_two_scale(update)
    matrix = scaled(update, scale)
    if matrix.shape[0] > matrix.shape[1]:
        matrix = matrix.mT
    factor = matrix.to(getattr(torch, dtype))
    if factor.device.type == "cpu":
        array = factor.numpy()
        gram = torch.from_numpy(array @ array.T).double()
    else:
        gram = (factor @ factor.mT).double()
    del factor
    if vectors:
        values, basis = torch.linalg.eigh(gram)
        basis = basis.flip(1)
    else:
        values, basis = torch.linalg.eigvalsh(gram), None
    values = values.flip(0).clamp_(min=0)
    error = 4 * math.sqrt(max(update.shape)) * torch.finfo(torch.float64).eps * float(values[0])
    if dtype == "float32":
        error += _measured_error(matrix, gram)
    return GramEigen(values, basis, scale, error, dtype)


def _measured_error(matrix: Tensor, gram: Tensor) -> float:
    """Four times the largest `||(gram - matrix matrix^T) x||` over eight random unit vectors x."""
    generator = torch.Generator().manual_seed(0)
    probes = torch.randn(len(gram), 8, dtype=torch.float64, generator=generator).to(gram)
    probes /= torch.linalg.vector_norm(probes, dim=0)
    errors = gram @ probes - matrix @ (matrix.mT @ probes)
    return 4 * float(torch.linalg.vector_norm(errors, dim=0).max())


def power_of_two_scale(update: Tensor) -> float:
    """The power of two just above the largest absolute value of an update; 1 if all are zero.

    Raises:
        DataError: `update` is not a matrix of finite float32 or float64 numbers.
    """
    if update.ndim != 2 or update.numel() == 0 or update.dtype not in (torch.float32, torch.float64):
        raise DataError(
            f"Got an update of shape {tuple(update.shape)} and dtype {update.dtype}; expected a matrix that is not "
            "empty, in float32 or float64. Subtract the stored weights in float64: trained.double() - base.double()."
        )
    low, high = (float(value) for value in torch.aminmax(update))
    largest = max(-low, high)
    if not math.isfinite(low) or not math.isfinite(high):
        count = int((~torch.isfinite(update)).sum())
        raise DataError(
            f"Got {count} entries of {update.numel()} in an update that are NaN or infinite; expected finite numbers. "
            "Look for the checkpoint at which training diverged."
        )
    return math.ldexp(1.0, min(math.frexp(largest)[1], 1023)) if largest else 1.0


def scaled(update: Tensor, scale: float) -> Tensor:
    """A float64 copy of `update / scale`, exact for a power of two."""
    return update.detach().to(torch.float64, copy=True).div_(scale)
