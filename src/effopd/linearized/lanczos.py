"""The Lanczos method with several start vectors and full reorthogonalisation, which can be interrupted."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor

_COLUMNS = 2**18
"""Number of columns of the basis of which eigenvectors are made at a time."""


class Step(NamedTuple):
    """What one step leaves.

    Attributes:
        column: Products of the new image with all basis vectors, and the norm of what is left of it, float64 [K + 1].
        vector: What is left of the image, normalised: the next basis vector, [D]; None if nothing is left.
    """

    column: Tensor
    vector: Tensor | None


class RitzPairs(NamedTuple):
    """Approximate eigenpairs of a symmetric matrix, largest eigenvalue first.

    Attributes:
        values: Eigenvalues, float64 [K].
        residuals: Norms of M x - value * x, each a bound on the eigenvalue's error; float64 [K].
        vectors: Orthonormal eigenvectors x as columns, [D, K].
    """

    values: Tensor
    residuals: Tensor
    vectors: Tensor


def lanczos(
    product: Callable[[Tensor], Tensor],
    start: Tensor,
    num_steps: int,
    *,
    done: Iterable[Step] = (),
    on_step: Callable[[Step], None] | None = None,
) -> RitzPairs:
    """Find eigenpairs of a symmetric matrix in the Krylov space of some vectors.

    Each step multiplies one basis vector and makes what is new in its image the next one, so that with W start vectors
    it is the block Lanczos method with blocks of W, taken vector by vector. The space holds M^j x for every start
    vector x and j < num_steps / W. It holds W + num_steps vectors [D], of which the eigenvectors are made in place.

    Args:
        product: Function that multiplies the matrix by a vector [D].
        start: Start vectors, [W, D]; those that depend on others are left out.
        num_steps: Number of products, at least 1; fewer if the space ends before.
        done: Steps of an earlier call with the same arguments, in order, which are not done again. They are read one at
            a time.
        on_step: Function that is called after each new step.
    """
    room = torch.empty(len(start) + num_steps, start.shape[1], dtype=start.dtype, device=start.device)
    count = 0
    for vector in start:
        unit = vector / vector.norm() if vector.any() else vector
        left, _ = _orthogonalised(unit, room[:count])
        if left.norm() > _negligible(start):
            room[count] = left / left.norm()
            count += 1
    columns: list[Tensor] = []
    has_next: list[bool] = []
    earlier = iter(done)
    largest = 0.0  # of the diagonal so far, for the scale of the matrix
    for index in range(num_steps):
        if index >= count:
            break
        step = next(earlier, None)
        if step is None:
            left, overlaps = _orthogonalised(product(room[index]), room[:count])
            norm = left.norm()
            is_new = norm > _negligible(start) * max(largest, overlaps[index].abs().item())
            column = torch.cat([overlaps.double(), norm.double()[None]]).cpu()
            step = Step(column, left / norm if is_new else None)
            if on_step is not None:
                on_step(step)
        largest = max(largest, step.column[index].abs().item())
        columns.append(step.column)
        has_next.append(step.vector is not None)
        if step.vector is not None:
            room[count] = step.vector.to(room)
            count += 1
    return _ritz_pairs(room, columns, has_next)


def _negligible(like: Tensor) -> float:
    return 1e3 * torch.finfo(like.dtype).eps


def _orthogonalised(vector: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
    """Return what is left of a vector beside a basis, and its products with the basis vectors."""
    total = torch.zeros(len(basis), dtype=vector.dtype, device=vector.device)
    for _ in range(2):  # once is not enough in floating point
        overlaps = basis @ vector
        vector = vector - basis.T @ overlaps
        total += overlaps
    return vector, total


def _ritz_pairs(basis: Tensor, columns: list[Tensor], has_next: list[bool]) -> RitzPairs:
    """Project the matrix on the vectors that it was multiplied by, and measure what its images have beside them.

    The vectors take the place of the basis.
    """
    count = len(columns)
    known = max([count, *map(len, columns)])
    images = torch.zeros(known + count, count, dtype=torch.float64)  # the last rows: what was too small to be a vector
    for index, column in enumerate(columns):
        before = len(column) - 1
        images[:before, index] = column[:before]
        images[before if has_next[index] else known + index, index] = column[before]
    square = images[:count]
    values, weights = torch.linalg.eigh((square + square.T) / 2)
    values, weights = values.flip(0), weights.flip(1)
    residuals = (images[count:] @ weights).norm(dim=0)
    mixed = weights.T.to(basis)
    for part in basis[:count].split(_COLUMNS, dim=1):
        part.copy_(mixed @ part)
    return RitzPairs(values, residuals, basis[:count].T)
