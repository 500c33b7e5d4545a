"""Pictures in two dimensions of a few points in many dimensions, by principal components or t-SNE.

Shape suffixes: N points, D dimensions.
"""

from typing import Literal

import torch
from torch import Tensor

from effopd.errors import DataError

_MAX_PERPLEXITY = 30.0
_MAX_EXACT = 200  # number of points up to which the exact gradient is the faster one


def largest_entry_signs(columns_DK: Tensor) -> Tensor:
    """Compute the signs [K] that make the entry of largest absolute value in every column [D, K] positive."""
    largest = columns_DK.gather(0, columns_DK.abs().argmax(dim=0, keepdim=True)).squeeze(0)
    return torch.where(largest < 0, -1.0, 1.0).to(columns_DK)


def pca(points_ND: Tensor) -> tuple[Tensor, float | None]:
    """Compute coordinates on the first two principal components.

    Args:
        points_ND: Points [N, D], of any floating dtype, finite.

    Returns:
        Coordinates, float64 [N, 2], and `EVR_{0:2}`, the share of the variance in these two components. The largest
        loading of each component is positive. The share is in (0, 1]; it is None if the points coincide, and 1 for
        three points or fewer, which always lie in a plane.

    Raises:
        DataError: The points are no matrix, there are none, or they are not finite.
    """
    centred_ND = _centred(points_ND)
    basis_NK, lengths_K, directions_KD = torch.linalg.svd(centred_ND, full_matrices=False)
    coordinates = basis_NK * (lengths_K * largest_entry_signs(directions_KD.mT))
    coordinates = torch.nn.functional.pad(coordinates, (0, 2))[:, :2]
    variances_K = lengths_K.square()
    total = float(variances_K.sum())
    return coordinates, min(float(variances_K[:2].sum()) / total, 1.0) if total else None


def tsne(points_ND: Tensor, *, seed: int = 0) -> Tensor:
    """Compute t-SNE coordinates by scikit-learn, starting from the principal components.

    In such a picture neither the axes nor the distances between clusters mean anything. The perplexity is 30, or
    (N - 1) / 3 if there are too few points for that, but at least 1.

    Args:
        points_ND: Points [N, D], N >= 2, D >= 2, finite.
        seed: Random seed of the optimisation.

    Returns:
        Coordinates, float64 [N, 2]; zeros if the points coincide.

    Raises:
        DataError: The points are no matrix, there are fewer than two points or dimensions, or they are not finite.
    """
    centred_ND = _centred(points_ND)
    return _tsne(centred_ND, max(1.0, min(_MAX_PERPLEXITY, (len(centred_ND) - 1) / 3)), seed)


def tsne_of_authors(points_ND: Tensor, *, seed: int = 0) -> Tensor:
    """Compute t-SNE coordinates by the recipe of the authors of arXiv 2605.11739.

    Every dimension is standardised, the points are reduced to their first two principal components, and these are what
    t-SNE sees, with a perplexity of max(5, N / 3). Standardising gives every dimension the same weight, however little
    the points move along it; `tsne` keeps their distances. The perplexity is at most N - 1, which the recipe does not
    say for N <= 5 but t-SNE needs.

    Args:
        points_ND: Points [N, D], N >= 2, finite.
        seed: Random seed of the optimisation.

    Returns:
        Coordinates, float64 [N, 2]; zeros if the points coincide.

    Raises:
        DataError: The points are no matrix, there are fewer than two, or they are not finite.
    """
    centred_ND = _centred(points_ND)
    spread_D = centred_ND.square().mean(dim=0).sqrt()
    standard_ND = centred_ND / torch.where(spread_D > 0, spread_D, 1.0)
    num_points = len(standard_ND)
    return _tsne(pca(standard_ND)[0], min(max(5.0, num_points / 3), num_points - 1.0), seed)


def _tsne(centred_ND: Tensor, perplexity: float, seed: int) -> Tensor:
    from sklearn.manifold import TSNE  # takes a second to import
    from threadpoolctl import threadpool_limits

    num_points, num_dimensions = centred_ND.shape
    if num_points < 2 or num_dimensions < 2:
        raise DataError(f"Got points of shape {tuple(centred_ND.shape)}; t-SNE needs two points and two dimensions.")
    if not centred_ND.any():
        return torch.zeros(num_points, 2, dtype=torch.float64)
    method = "exact" if num_points <= _MAX_EXACT else "barnes_hut"
    model = TSNE(perplexity=perplexity, init="pca", learning_rate="auto", random_state=seed, method=method)
    with threadpool_limits(1):  # on shared cores, several threads wait for one another and take longer
        return torch.from_numpy(model.fit_transform(centred_ND.cpu().numpy())).double()


def project(points_ND: Tensor, method: Literal["pca", "tsne"] = "pca", *, seed: int = 0) -> Tensor:
    """Compute coordinates, float64 [N, 2], by `pca` or `tsne`."""
    return pca(points_ND)[0] if method == "pca" else tsne(points_ND, seed=seed)


def _centred(points_ND: Tensor) -> Tensor:
    points = points_ND.detach().double()
    if points.ndim != 2 or points.numel() == 0 or not points.isfinite().all():
        raise DataError(
            f"Got points of shape {tuple(points.shape)}; expected a matrix of finite numbers, a point a row."
        )
    # Subtracting the first point before the mean makes points that coincide exactly zero.
    points = points - points[0]
    return points - points.mean(dim=0)
