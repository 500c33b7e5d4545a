"""Extrapolating a product of two factors, LoRA's B A, without raising its rank.

The product that is wanted, `P_t + scale * (P_t - P_anchor)`, has rank 2r at most, and is known exactly in orthonormal
bases of the columns of both B and of the rows of both A. There it is a core of [2r, 2r], which is truncated to rank r
by its singular values: the nearest product that r can hold (Eckart and Young).

The same product has many factors. A is given the row space that the truncated product needs, and otherwise stays as it
is: of all matrices with that row space and the Gram matrix A_t A_t^T, it is the nearest to A_t (a weighted orthogonal
Procrustes problem), and B follows. So A is as well conditioned as before, the factors go to (A_t, B_t) as the scale
goes to 0, and Adam's moments go on to mean the same rows of A and columns of B. Factors of equal norms, which an SVD
gives, would not do: B starts at 0, far below A, and at the first trigger would take the size of A.

Shapes: A [r, n], B [m, r]. All arithmetic is in float64.
"""

import math
from typing import NamedTuple

import torch

# Singular values below this share of the largest are rounding of float32 factors, and tell no direction.
_NOISE = torch.finfo(torch.float32).eps
# Smallest singular value that A is given, as a share of its largest; only an A_t that is all but singular has smaller.
_FLOOR = 1e-6


class Product(NamedTuple):
    """A matrix `left @ right`, with `left` [m, k] and `right` [k, n] in float64."""

    left: torch.Tensor
    right: torch.Tensor

    def inner(self, other: "Product") -> torch.Tensor:
        """Sum of the elementwise products of two matrices, without forming them; a scalar."""
        return ((self.left.mT @ other.left) * (self.right @ other.right.mT)).sum()

    def norm_squared(self) -> torch.Tensor:
        """Squared Frobenius norm; a scalar."""
        return self.inner(self).clamp_min(0)


def difference(a_from: torch.Tensor, b_from: torch.Tensor, a_to: torch.Tensor, b_to: torch.Tensor) -> Product:
    """Return `b_to @ a_to - b_from @ a_from` without cancellation; it is 0 if the factors are equal."""
    a_from, b_from, a_to, b_to = (each.double() for each in (a_from, b_from, a_to, b_to))
    return Product(torch.cat([b_to, b_to - b_from], dim=1), torch.cat([a_to - a_from, a_from]))


def extrapolate_product(
    a_anchor: torch.Tensor, b_anchor: torch.Tensor, a_now: torch.Tensor, b_now: torch.Tensor, scale: float
) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Extrapolate a product by `scale` times its displacement since the anchor, in factors of the same rank.

    Args:
        a_anchor: Factor A of the anchor, floating, [r, n].
        b_anchor: Factor B of the anchor, [m, r].
        a_now: Factor A of W_t, [r, n].
        b_now: Factor B of W_t, [m, r].
        scale: Multiple of the displacement, finite and above -1. With 0, or if the product has not moved, the factors
            of W_t are returned as they are.

    Returns:
        A and B in float64, and the norm of what the truncation loses as a share of the norm of the jump, 0 or more. If
        a factor is not finite, all three are NaN.
    """
    jump = abs(scale) * math.sqrt(float(difference(a_anchor, b_anchor, a_now, b_now).norm_squared()))
    a_now, b_now = a_now.double(), b_now.double()
    if jump == 0:
        return a_now, b_now, 0.0
    if not math.isfinite(jump):
        return torch.full_like(a_now, math.nan), torch.full_like(b_now, math.nan), math.nan
    q_left, r_left = torch.linalg.qr(torch.cat([b_now, b_anchor.double()], dim=1))
    q_right, r_right = torch.linalg.qr(torch.cat([a_now, a_anchor.double()]).mT)
    r = len(a_now)
    core = (1 + scale) * r_left[:, :r] @ r_right[:, :r].mT - scale * r_left[:, r:] @ r_right[:, r:].mT
    u, singular, rows = torch.linalg.svd(core, full_matrices=False)
    rank = int((singular[:r] > _NOISE * singular[0]).sum())
    residual = float(singular[rank:].norm()) / jump
    # In the coordinates of the two bases, A_t is a part of r_right, and nothing is larger than [2r, 2r].
    a, b = _nearest_factors(u[:, :rank] * singular[:rank], rows[:rank], r_right[:, :r].mT)
    return a @ q_right.mT, q_left @ b, residual


def _nearest_factors(left: torch.Tensor, rows: torch.Tensor, a_now: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Factor `left @ rows` as B A, with A as near to `a_now` as its row space allows.

    Args:
        left: Left factor, [m, k] with k <= r.
        rows: Orthonormal rows, [k, n].
        a_now: Factor A of W_t, [r, n].
    """
    p, sigma, rows_now = torch.linalg.svd(a_now, full_matrices=False)  # [r, q], [q], [q, n] with q = min(r, n)
    sigma = sigma.clamp_min(_FLOOR * sigma[0]) if sigma[0] > 0 else torch.ones_like(sigma)
    rank = len(rows)
    if missing := len(sigma) - rank:  # the product needs fewer rows than A has; the others are of A's own row space
        rest = rows_now - (rows_now @ rows.mT) @ rows
        rows = torch.cat([rows, torch.linalg.svd(rest, full_matrices=False)[2][:missing]])
    x, _, zh = torch.linalg.svd(sigma[:, None] ** 2 * (rows_now @ rows.mT))
    rotation = x @ zh
    return (p * sigma) @ (rotation @ rows), (left @ rotation.mT[:rank] / sigma) @ p.mT
