"""The share of b in each eigenvector, freed of the noise of the completions that b is estimated from.

The mean gradient of N completions is b and noise. Both are squared in |b|^2, so that shares computed from it are those
of a mixture, and where the noise is larger, they are those of the noise. Gradients g_i of different completions are
independent, and E[<g_i, u> <g_j, u>] = <b, u>^2 for i != j and any u that does not depend on them: the mean over all
pairs has no noise added. So the eigenvectors come from one set of contexts, and the gradients from fresh ones.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from effopd.linearized.covariance import Spread
from effopd.linearized.root import GaussNewtonRoot, Vector, dot
from effopd.linearized.spectrum import Spectrum

NEGLIGIBLE = 1e-6
"""Eigenvalue, relative to the largest, up to which an eigenvector is left out, as one of rounding errors."""


class Shares(NamedTuple):
    """Shares of |b|^2 in the first eigenvectors of A, estimated from pairs of different completions.

    Attributes:
        squared_norm: |b|^2, without bias; below 0 where it is lost in the noise.
        shares: Share in the first 1, 2, ... eigenvectors, float64 [K]. Noise may take one below 0 or above 1.
        errors: Standard errors of the shares, by the jackknife over completions, float64 [K].
    """

    squared_norm: float
    shares: Tensor
    errors: Tensor

    def rank_of_share(self, share: float) -> int | None:
        """Count the eigenvectors that hold at least this share; None if all of them together do not, or |b| is lost."""
        enough = (self.shares >= share).nonzero()
        return int(enough[0]) + 1 if self.squared_norm > 0 and len(enough) else None


def unbiased_shares(products_NK: Tensor, with_mean_N: Tensor, squares_N: Tensor) -> Shares:
    """Estimate the shares from the gradients g_i of N completions.

    Args:
        products_NK: Products <g_i, u_k> with K orthonormal vectors, float64 [N, K]; N is at least 3.
        with_mean_N: Products <g_i, mean of all g>, float64 [N].
        squares_N: Squared norms |g_i|^2, float64 [N].
    """
    count = len(squares_N)
    sums_K, sums_of_squares_K = products_NK.sum(0), (products_NK**2).sum(0)
    whole, total = count * with_mean_N.sum(), squares_N.sum()  # |sum of all g|^2, sum of all |g|^2
    squared_norm = ((whole - total) / (count * (count - 1))).item()
    shares = (sums_K**2 - sums_of_squares_K).cumsum(0) / (whole - total)
    # Without one completion each, for the jackknife.
    pairs_NK = (sums_K - products_NK) ** 2 - (sums_of_squares_K - products_NK**2)
    all_N = whole - 2 * count * with_mean_N + squares_N - (total - squares_N)
    without_NK = pairs_NK.cumsum(1) / all_N[:, None]
    errors = ((count - 1) * without_NK.var(0, correction=0)).sqrt()
    return Shares(squared_norm, shares, errors)


def shares_at(
    root: GaussNewtonRoot, spectrum: Spectrum, fresh: GaussNewtonRoot, residual: Tensor, spread: Spread
) -> Shares:
    """Estimate the shares of b in the eigenvectors of A from contexts of which A was not made.

    It takes a vjp at the contexts of A and a jvp at the fresh ones for each eigenvector.

    Args:
        root: The root of A.
        spectrum: Eigenpairs of A.
        fresh: The same model, linearised at other contexts than `root`; at least three of them.
        residual: r of the fresh contexts, as `fresh.residual` returns it, [T, V].
        spread: The spread of their gradients, as `gradient_spread` returns it for the exact KL.
    """
    used = int((spectrum.values > NEGLIGIBLE * spectrum.values[0]).sum())
    products_NK = torch.stack(
        [_with_gradients(fresh, residual, _eigenvector(root, spectrum, index)) for index in range(used)], 1
    )
    # The spread is of gradients of the loss, which are -g.
    with_mean_N = -_with_gradients(fresh, residual, spread.mean)
    count, squared_mean = len(with_mean_N), dot(spread.mean, spread.mean)
    distances_N = torch.tensor(spread.deviations, dtype=torch.float64) * (count - 1) / count
    return unbiased_shares(products_NK, with_mean_N, distances_N + 2 * with_mean_N - squared_mean)


def _eigenvector(root: GaussNewtonRoot, spectrum: Spectrum, index: int) -> Vector:
    rows = spectrum.row_vectors[:, index] / spectrum.values[index].sqrt().to(spectrum.row_vectors)
    return root.pull(rows.view(len(root.token_ids), -1))


def _with_gradients(root: GaussNewtonRoot, residual: Tensor, vector: Vector) -> Tensor:
    """Compute the product of a vector with minus the gradient of each completion, float64 [N]."""
    by_token = (root.push(vector).double() * residual.double()).sum(-1).cpu()
    lengths = root.contexts.completion_mask.sum(1).tolist()
    return len(lengths) * torch.stack([each.sum() for each in by_token.split(lengths)])
