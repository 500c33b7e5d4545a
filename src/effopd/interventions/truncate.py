"""Keeping part of an update's singular components (arXiv 2605.11739, top-k % and bottom-k % subspaces).

Only the singular vectors of the short side are needed. With V_k the first k of them as columns (of a tall dW),

    top    = (dW V_k) V_k^T          the best approximation of rank k
    bottom = dW - top

and with the others, V', `bottom = (dW V') V'^T` and `top = dW - bottom`: whichever product is smaller is computed, and
the other part is the difference, so that the two add up to dW to the last bits of float64.

Shape suffixes: m rows, n columns, r = min(m, n).
"""

import math
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from effopd.errors import ConfigurationError
from effopd.updates import gram_eigen, spectrum


@dataclass(frozen=True, eq=False)
class Decomposition:
    """What truncations of one update need to know of it.

    Attributes:
        vectors: float64 [r, K], the first K singular vectors of the short side as columns, K <= r.
        rank: Number of singular values above `max(m, n) * 2.2e-16 * sigma_1`.
    """

    vectors: Tensor
    rank: int


def decompose(update: Tensor) -> Decomposition:
    """All singular vectors of the short side of an update.

    From the eigenvectors of the Gram matrix, which tell apart components down to some 1e-7 of the first. Where the rank
    counts smaller ones, from a float64 SVD, at three to four times the cost.

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


def top_count(percent: float, rank: int) -> int:
    """The components that the top `percent` % are: `ceil(percent / 100 * rank)`.

    Exactly: 1.1 % of 3000 are 33, which floating-point numbers make 34.

    Args:
        percent: In [0, 100], by its shortest decimal form.
        rank: Number of components there are.
    """
    return math.ceil(_fraction(percent) * rank / 100)


def bottom_count(percent: float, rank: int) -> int:
    """The components that the top `100 - percent` % leave: `floor(percent / 100 * rank)`, exactly."""
    return math.floor(_fraction(percent) * rank / 100)


def keep_top(update: Tensor, count: int, decomposition: Decomposition) -> Tensor:
    """The first `count` singular components of an update.

    Args:
        update: dW, float64 [m, n].
        count: From 0 to `decomposition.rank`; `update` itself is returned for all of them.
        decomposition: `decompose(update)`.

    Raises:
        ConfigurationError: There are not as many components, or the decomposition has too few vectors.
    """
    part, is_top = _smaller_part(update, count, decomposition)
    return part if is_top else update - part


def keep_bottom(update: Tensor, count: int, decomposition: Decomposition) -> Tensor:
    """The last `count` singular components of an update; `update - keep_top(update, rank - count, ...)`.

    What lies below the threshold of the rank, which is rounding, is in it too, unless count is 0.

    Args:
        update: dW, float64 [m, n].
        count: From 0 to `decomposition.rank`; `update` itself is returned for all of them.
        decomposition: `decompose(update)`.

    Raises:
        ConfigurationError: There are not as many components, or the decomposition has too few vectors.
    """
    part, is_top = _smaller_part(update, decomposition.rank - count, decomposition)
    return update - part if is_top else part


def _smaller_part(update: Tensor, count: int, decomposition: Decomposition) -> tuple[Tensor, bool]:
    """The first `count` components, or the others, and whether it is the first."""
    vectors, rank, short = decomposition.vectors, decomposition.rank, min(update.shape)
    num_vectors = vectors.shape[1]
    if not 0 <= count <= rank or len(vectors) != short or num_vectors < count < rank:
        raise ConfigurationError(
            f"Got {count} components to part from the others of an update of shape {tuple(update.shape)}, and "
            f"{num_vectors} singular vectors of length {len(vectors)}; expected from 0 to {rank}, its rank, and as "
            f"many vectors of length {short}. Pass decompose(update)."
        )
    if count in (0, rank):
        return update, count == rank
    if count <= short // 2 or num_vectors < short:
        return _project(update, vectors[:, :count]), True
    return _project(update, vectors[:, count:]), False


def _project(update: Tensor, basis: Tensor) -> Tensor:
    if update.shape[0] >= update.shape[1]:
        return (update @ basis) @ basis.mT
    return basis @ (basis.mT @ update)


def _fraction(percent: float) -> Fraction:
    return Fraction(repr(float(percent)))
