"""The directions of an update: leading singular vectors, and how they turn from one checkpoint to the next.

Source: arXiv 2605.11739, the sections on subspace alignment and on the trajectory of the first singular vector.

Shape suffixes: M rows and N columns of dW, K directions, T checkpoints.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from effopd.errors import DataError
from effopd.updates.blocks import UpdateBlocks
from effopd.updates.gram import GramEigen, gram_eigen
from effopd.updates.projection import largest_entry_signs, pca

# A direction that moves by less than this share of its length (root mean square) counts as standing still, because
# vectors are kept in float32, and rounding moves them by up to 1e-7.
_STILL = 5e-7


@dataclass(frozen=True, eq=False)
class SingularVectors:
    """The leading singular vectors of one update matrix, `dW v_i = sigma_i u_i`.

    Attributes:
        left: Left singular vectors u_1 ... u_K as columns, float64 [M, K], orthonormal. The entry of largest absolute
            value in each of them is positive.
        right: Right singular vectors v_1 ... v_K as columns, float64 [N, K], orthonormal, with signs that fit `left`.
        singular_values: Singular values sigma_1 ... sigma_K, float64 [K], descending.
        relative_gap: Distance of sigma_i to its nearest neighbour, divided by sigma_i, float64 [K], in [0, 1]. A
            perturbation E of dW turns u_i and v_i by an angle of about `||E|| / (relative_gap_i * sigma_i)` (Wedin). A
            vector with a small gap, as inside a bulk of noise, therefore means nothing by itself, although the subspace
            of several such vectors may.
    """

    left: Tensor
    right: Tensor
    singular_values: Tensor
    relative_gap: Tensor


def singular_vectors(update: Tensor | UpdateBlocks, k: int = 20, *, eigen: GramEigen | None = None) -> SingularVectors:
    """Compute leading singular vectors from the Gram matrix of the short side.

    The eigenvectors of the Gram matrix span the leading subspace. An SVD of dW restricted to that subspace, which is
    only k wide, then gives both sides, orthonormal to working precision.

    Args:
        update: dW, float32 or float64 [M, N], or its blocks.
        k: Number of vectors. The result has fewer columns if the matrix is smaller, or if fewer singular values lie
            above some 1e-6 of sigma_1, below which the Gram matrix does not resolve them. It has none for an update of
            zeros.
        eigen: Result of `gram_eigen(update, vectors=True)`, perhaps with the same `k`, if there is one already.

    Raises:
        DataError: `update` is not a matrix of finite float32 or float64 numbers; k < 1; `eigen` is of another matrix
            or has no vectors.
    """
    if k < 1:
        raise DataError(f"Got k={k}; expected at least 1.")
    blocks = eigen.blocks if eigen else UpdateBlocks.of(update)
    if not blocks.num_nonzero and blocks.shape == tuple(update.shape):
        sizes = ((blocks.shape[0], 0), (blocks.shape[1], 0), (0,), (0,))
        return SingularVectors(*(torch.zeros(size, dtype=torch.float64) for size in sizes))
    eigen = eigen or gram_eigen(blocks, vectors=True, k=k)
    short = len(eigen.values)
    if eigen.vectors is None or eigen.blocks.shape != tuple(update.shape) or eigen.vectors.shape[1] < min(k, short):
        vectors = "none" if eigen.vectors is None else eigen.vectors.shape[1]
        raise DataError(
            f"Got a decomposition of a matrix of shape {eigen.blocks.shape} with {vectors} vectors, for {k} vectors of "
            f"an update of shape {tuple(update.shape)}; expected gram_eigen(update, vectors=True) of the same update."
        )
    k = min(k, int((eigen.values > eigen.error).sum()))
    basis = eigen.vectors[:, :k]
    image = eigen.blocks @ basis if eigen.image is None else eigen.image[:, :k]
    long_vectors, sigma, rotation = torch.linalg.svd(image, full_matrices=False)
    short_vectors = basis @ rotation.mT
    left, right = (long_vectors, short_vectors) if eigen.blocks.is_tall else (short_vectors, long_vectors)
    signs = largest_entry_signs(left) if k else sigma
    # Zero counts as the neighbour below the last singular value of all.
    neighbours = torch.cat([sigma, eigen.values.new_zeros(1) if k == short else eigen.values[k : k + 1].sqrt()])
    below = (neighbours[:-1] - neighbours[1:]).clamp(min=0)
    above = torch.cat([below.new_full((min(k, 1),), torch.inf), below[:-1]])
    return SingularVectors(left * signs, right * signs, sigma * eigen.scale, torch.minimum(below, above) / sigma)


def vector_alignment(first: Tensor, second: Tensor) -> Tensor:
    """Compute the alignment of matching vectors, `|cos(u_k(t), u_k(T))|` for each k.

    The order of the vectors counts. If two singular values cross between the checkpoints, both alignments are near 0,
    although the subspace has not moved. See `subspace_alignment` and `SingularVectors.relative_gap`.

    Args:
        first: Unit vectors as columns [M, K], such as `SingularVectors.left` of one checkpoint.
        second: Unit vectors of another checkpoint, [M, K']. Only the first min(K, K') columns of the two are compared.

    Returns:
        Alignments, float64 [min(K, K')], in [0, 1]. The paper averages them over k = 1..20, and then over matrices.

    Raises:
        DataError: The columns differ in length.
    """
    _check_rows(first, second)
    k = min(first.shape[1], second.shape[1])
    cosines: Tensor = (first[:, :k].double() * second[:, :k].double()).sum(dim=0)
    return cosines.abs().clamp(max=1)


def subspace_alignment(first: Tensor, second: Tensor) -> Tensor:
    """Compute the cosines of the principal angles between two subspaces, which depend on no basis.

    The result has to be compared with chance: for two random subspaces of K in M dimensions, the mean squared cosine is
    K / M.

    Args:
        first: Orthonormal columns [M, K], such as `SingularVectors.left` of one checkpoint.
        second: Orthonormal columns [M, K'].

    Returns:
        Cosines, float64 [min(K, K')], descending, in [0, 1]. All are 1 if one subspace contains the other.

    Raises:
        DataError: The columns differ in length.
    """
    _check_rows(first, second)
    cosines: Tensor = torch.linalg.svdvals(first.double().mT @ second.double())
    return cosines.clamp(max=1)


def nested_alignment(first: Tensor, second: Tensor) -> Tensor:
    """Compute the alignment of the spans of the first k vectors for every k, as root mean square cosines.

    Entry k - 1 is the root mean square of `subspace_alignment(first[:, :k], second[:, :k])`. For random subspaces it
    would be about sqrt(k / M).

    Args:
        first: Orthonormal columns [M, K], such as `SingularVectors.left` of one checkpoint.
        second: Orthonormal columns [M, K'].

    Returns:
        Alignments for k = 1 .. min(K, K'), float64 [min(K, K')], in [0, 1].

    Raises:
        DataError: The columns differ in length.
    """
    _check_rows(first, second)
    k = min(first.shape[1], second.shape[1])
    squares = (first[:, :k].double().mT @ second[:, :k].double()).square()
    # The squared cosines of the first k vectors add up to the squared norm of the leading k x k block.
    sums = squares.cumsum(0).cumsum(1).diagonal()
    return (sums / torch.arange(1, k + 1).to(sums)).sqrt().clamp(max=1)


def displacement_cosine(pairs: Iterable[tuple[Tensor, Tensor]]) -> float | None:
    """Compute the cosine of the angle between two displacements, each of which consists of several tensors.

    Args:
        pairs: Pairs of matching tensors of the two displacements, of any shapes and dtypes.

    Returns:
        Cosine over all entries of all tensors, computed in float64, in [-1, 1]; None if a displacement is zero.

    Raises:
        DataError: The shapes within a pair differ.
    """
    dot = first_square = second_square = 0.0
    for first, second in pairs:
        if first.shape != second.shape:
            raise DataError(f"Got a pair of shapes {tuple(first.shape)} and {tuple(second.shape)}; expected the same.")
        a, b = first.detach().double().flatten(), second.detach().double().flatten()
        dot += float(a @ b)
        first_square += float(a @ a)
        second_square += float(b @ b)
    if first_square == 0 or second_square == 0:
        return None
    cosine = dot / (math.sqrt(first_square) * math.sqrt(second_square))
    return min(max(cosine, -1.0), 1.0)  # in this order, NaN stays NaN


@dataclass(frozen=True, eq=False)
class Trajectory:
    """One direction over several checkpoints, for example u_1 of one weight.

    Attributes:
        aligned: Vectors, float64 [T, M], each with the sign that brings it nearest to the one before.
        coordinates: First two principal components of the vectors, float64 [T, 2]; zeros if the vectors do not move.
            `tsne(trajectory.aligned)` gives the coordinates of t-SNE.
        explained_variance_ratio: `EVR_{0:2}`, the share of the variance in these two components, in (0, 1]. It is 1 for
            three checkpoints or fewer. It is None if the vectors move by no more than rounding to float32 moves them,
            which is 5e-7 of their length (root mean square): it would only describe noise.
    """

    aligned: Tensor
    coordinates: Tensor
    explained_variance_ratio: float | None


def trajectory(vectors: Tensor) -> Trajectory:
    """Follow a direction over several checkpoints.

    Args:
        vectors: Vector of each checkpoint, in the order of training, [T, M], of any floating dtype. Signs do not
            matter; the first vector keeps its own.

    Raises:
        DataError: The vectors are no matrix, there are none, or they are not finite.
    """
    if vectors.ndim != 2:
        raise DataError(f"Got vectors of shape {tuple(vectors.shape)}; expected [checkpoints, length].")
    vectors = vectors.detach().double()
    steps = torch.where((vectors[1:] * vectors[:-1]).sum(dim=1) < 0, -1.0, 1.0).to(vectors)
    aligned = vectors * torch.cat([steps.new_ones(1), steps.cumprod(0)])[: len(vectors), None]
    coordinates, share = pca(aligned)
    if float((aligned - aligned.mean(dim=0)).norm()) <= _STILL * float(aligned.norm()):
        return Trajectory(aligned, torch.zeros_like(coordinates), None)
    return Trajectory(aligned, coordinates, share)


def _check_rows(first: Tensor, second: Tensor) -> None:
    if first.ndim != 2 or second.ndim != 2 or first.shape[0] != second.shape[0]:
        raise DataError(
            f"Got vectors of shapes {tuple(first.shape)} and {tuple(second.shape)}; expected columns of one length, "
            "from the same weight of two checkpoints."
        )
