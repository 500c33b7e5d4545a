"""What the eigenvectors of A say: where b lies, and where gradient descent on the quadratic model goes.

Gradient descent with step size eta on b^T d - d^T A d / 2, from d = 0, is after s steps at

    d_s = sum_i g_s(lambda_i) <b, u_i> u_i,    g_s(lambda) = (1 - (1 - eta lambda)^s) / lambda,

(arXiv 2605.11739, appendix on linearised dynamics). Eigenvectors u of A = R^T R belong to eigenvectors x of R R^T by
u = R^T x / sqrt(lambda), so <b, u> = sqrt(lambda) <r, x>, and d_s = R^T sum_i g_s(lambda_i) <r, x_i> x_i: one vjp.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from effopd.linearized.lanczos import Step, lanczos
from effopd.linearized.root import GaussNewtonRoot, Vector


class Spectrum(NamedTuple):
    """Eigenpairs of A in the Krylov space of b and of a random vector, and where b lies among them.

    Attributes:
        values: Eigenvalues, largest first, float64 [K]; none of them is below 0 but by rounding.
        residuals: Bounds on their errors, float64 [K].
        overlaps: <b, u_i> for the eigenvectors u_i, up to sign, float64 [K]. Their squares add up to |b|^2.
        row_vectors: Eigenvectors x_i of R R^T as columns, [T * V, K].
        row_overlaps: <r, x_i>, float64 [K].
    """

    values: Tensor
    residuals: Tensor
    overlaps: Tensor
    row_vectors: Tensor
    row_overlaps: Tensor

    @property
    def shares(self) -> Tensor:
        """Share of |b|^2 in the first 1, 2, ..., K eigenvectors, float64 [K]; NaN if b is 0."""
        return (self.overlaps**2).cumsum(0) / (self.overlaps**2).sum()

    def rank_of_share(self, share: float) -> int:
        """Count the eigenvectors, from the largest eigenvalue on, that hold at least this share of |b|^2."""
        return int((self.shares < share).sum()) + 1

    def fewest_for_share(self, share: float) -> int:
        """Count the eigenvectors that hold at least this share of |b|^2, those with the largest shares first."""
        ordered = (self.overlaps**2).sort(descending=True).values
        return int((ordered.cumsum(0) / ordered.sum() < share).sum()) + 1


def find_spectrum(
    root: GaussNewtonRoot,
    residual_TV: Tensor,
    num_steps: int,
    seed: int,
    *,
    done: Iterable[Step] = (),
    on_step: Callable[[Step], None] | None = None,
) -> Spectrum:
    """Find the largest eigenvalues of A, and the share of b in each eigenvector.

    The Krylov space starts at b, which makes predicted paths of up to num_steps / 2 gradient steps exact, and at a
    random vector, without which eigenvectors that b has no share in would not be seen. It holds `num_steps` vectors of
    T * V numbers.

    Args:
        root: The root of A.
        residual_TV: r, as `root.residual` returns it.
        num_steps: Number of products with R R^T, each of which costs a vjp and a jvp.
        seed: Random seed of the random start vector.
        done: Steps of an earlier call with the same arguments, in order, which are read one at a time.
        on_step: Function that is called after each new step.
    """
    shape = residual_TV.shape
    start = torch.stack([residual_TV.reshape(-1), root.random_rows(seed).reshape(-1)])
    pairs = lanczos(
        lambda rows: root.row_product(rows.view(shape)).reshape(-1), start, num_steps, done=done, on_step=on_step
    )
    row_overlaps = (pairs.vectors.T @ start[0]).double().cpu()
    overlaps = row_overlaps * pairs.values.clamp(min=0).sqrt()
    return Spectrum(pairs.values, pairs.residuals, overlaps, pairs.vectors, row_overlaps)


def growth(values: Tensor, eta: float, num_steps: int) -> Tensor:
    """Compute g_s(lambda) = (1 - (1 - eta lambda)^s) / lambda, which is eta * s at 0, for each eigenvalue; float64."""
    x = eta * values.double()
    safe = torch.where(x.abs() < 1e-12, torch.ones_like(x), x)
    ratio = (1 - (1 - safe) ** num_steps) / safe
    small = (x > 0) & (x < 0.5)  # where the difference would cancel
    ratio = torch.where(small, -torch.expm1(num_steps * torch.log1p(-torch.where(small, x, 0.0))) / safe, ratio)
    return eta * torch.where(x.abs() < 1e-12, torch.full_like(x, num_steps), ratio)


def predicted_displacement(root: GaussNewtonRoot, spectrum: Spectrum, eta: float, num_steps: int) -> Vector:
    """Compute d_s, where gradient descent on the quadratic model is after s = `num_steps` steps of size `eta`."""
    weights = growth(spectrum.values, eta, num_steps) * spectrum.row_overlaps
    rows = spectrum.row_vectors @ weights.to(spectrum.row_vectors)
    return root.pull(rows.view(len(root.token_ids), -1))


def tail_bound(spectrum: Spectrum, eta: float, num_steps: int, rank: int) -> float:
    """Bound the norm of d_s outside the first `rank` eigenvectors: max_{i > rank} |g_s(lambda_i)| times |b| there."""
    rest = slice(rank, None)
    largest = growth(spectrum.values[rest].clamp(min=0), eta, num_steps).abs().max().item()
    return float(largest * spectrum.overlaps[rest].norm())


def coordinates(root: GaussNewtonRoot, spectrum: Spectrum, vector: Mapping[str, Tensor], rank: int) -> Tensor:
    """Compute the products of a vector as long as the model with the first `rank` eigenvectors, float64 [rank]."""
    rows = root.push(vector).reshape(-1)
    products = (spectrum.row_vectors[:, :rank].T @ rows).double().cpu()
    return products / spectrum.values[:rank].clamp(min=torch.finfo(torch.float64).tiny).sqrt()
