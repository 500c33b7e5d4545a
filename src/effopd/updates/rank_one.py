"""The rank-1 trajectory of a matrix, extrapolated to an accuracy by partial least squares (arXiv 2510.00553).

Shape suffixes: M rows and N columns of dW, T checkpoints.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from effopd.errors import DataError
from effopd.updates.subspace import SingularVectors

FEWEST_CHECKPOINTS = 3
"""Number of checkpoints below which the paper's public code fits no trajectory."""


ROUNDING = 1e-12
"""Share of the largest entry up to which differences between checkpoints are the rounding of the SVD in float64."""


class RankOneUpdate(NamedTuple):
    """The rank-1 update of a matrix that a trajectory predicts, `outer(column, right)`.

    Attributes:
        column: Predicted `sigma_1 u_1`, float64 [M].
        right: First right singular vector of the last checkpoint's update, float64 [N], of unit length.
        r2: Share of the variance of the accuracies that the trajectory's score explains, in [0, 1].
    """

    column: Tensor
    right: Tensor
    r2: float


def extrapolate_rank_one(
    vectors: Sequence[SingularVectors], accuracies: Sequence[float], target: float
) -> RankOneUpdate | None:
    """Predict a matrix's rank-1 update at an accuracy, from those of some checkpoints.

    As in the public code of arXiv 2510.00553: the vectors `sigma_1 u_1` are given signs by which each has a positive
    product with the one after it, the last keeping its own. A PLS regression of the accuracies on them, with one
    component on standardised coordinates, gives each a score; the accuracy is regressed on the score, the line is
    solved for the target, and the PLS maps that score back to a vector. The right vector is that of the last
    checkpoint. A trajectory that is linear in the accuracy, with one right vector, is continued exactly. Accuracies and
    target may be in any unit, since a shift and a factor that all of them share change nothing. Unlike there, a
    coordinate that stands still but for rounding keeps its value: standardised, its rounding would count as much as
    what the others learn.

    Args:
        vectors: At least the first singular vectors of the update at each checkpoint, in the order of training.
            Checkpoints that have none, where the matrix had not moved, are left out.
        accuracies: Accuracy at each checkpoint.
        target: Accuracy to extrapolate to, in the same unit.

    Returns:
        The prediction; None if fewer than 3 checkpoints have moved the matrix, if their accuracies are equal, or if the
        trajectory's score says nothing of them.

    Raises:
        DataError: The numbers of checkpoints and accuracies differ.
    """
    from sklearn.cross_decomposition import PLSRegression  # takes a second to import
    from sklearn.linear_model import LinearRegression

    if len(vectors) != len(accuracies):
        raise DataError(f"Got {len(vectors)} checkpoints and {len(accuracies)} accuracies; expected as many of both.")
    moved = [(each, value) for each, value in zip(vectors, accuracies, strict=True) if len(each.singular_values)]
    if len(moved) < FEWEST_CHECKPOINTS:
        return None
    columns_TM = torch.stack([each.left[:, 0] * each.singular_values[0] for each, _ in moved])
    for index in range(len(columns_TM) - 2, -1, -1):
        if columns_TM[index] @ columns_TM[index + 1] < 0:
            columns_TM[index] *= -1
    points_TM, values_T = columns_TM.double().numpy(), np.array([value for _, value in moved], dtype=np.float64)
    moving_M = np.ptp(points_TM, axis=0) > ROUNDING * np.abs(points_TM).max()
    if np.ptp(values_T) == 0 or not moving_M.any():
        return None
    pls = PLSRegression(n_components=1).fit(points_TM[:, moving_M], values_T)
    line = LinearRegression().fit(pls.x_scores_, values_T)
    if line.coef_[0] == 0:
        return None
    score = (target - line.intercept_) / line.coef_[0]
    column_M = points_TM[-1].copy()
    column_M[moving_M] = pls.inverse_transform(np.array([[score]]))[0]
    right_N = moved[-1][0].right[:, 0].double()
    return RankOneUpdate(torch.from_numpy(column_M), right_N, float(line.score(pls.x_scores_, values_T)))
