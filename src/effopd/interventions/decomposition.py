"""The singular vectors of an update that truncations need: those of the short side of the matrix.

Shape suffixes: m rows, n columns, r = min(m, n).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from effopd.updates import gram_eigen, spectrum


@dataclass(frozen=True, eq=False)
class Decomposition:
    """What truncations of an update need to know about it.

    Attributes:
        vectors: float64 [r, K], the first K singular vectors of the short side as columns, K <= r.
        rank: Number of singular values above `max(m, n) * 2.2e-16 * sigma_1`.
    """

    vectors: Tensor
    rank: int


def decompose(update: Tensor) -> Decomposition:
    """Compute all singular vectors of the short side of an update.

    They are the eigenvectors of the Gram matrix, which tells components apart down to about 1e-7 of the first. Where
    the rank counts smaller ones, a float64 SVD is computed instead, at three to four times the cost.

    Args:
        update: dW, float64 [m, n].

    Raises:
        DataError: `update` is not a matrix of finite numbers.
    """
    eigen = gram_eigen(update, vectors=True)
    rank = spectrum(update, eigen=eigen).rank
    vectors = eigen.vectors
    if vectors is None or rank > int((eigen.values > eigen.error).sum()):
        tall = update if update.shape[0] >= update.shape[1] else update.mT
        vectors = torch.linalg.svd(tall, full_matrices=False).Vh.mT.contiguous()
    return Decomposition(vectors, rank)
