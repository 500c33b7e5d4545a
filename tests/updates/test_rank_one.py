"""The rank-1 trajectory of a matrix, extrapolated by PLS: exact where it is linear in the accuracy."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from effopd.errors import DataError
from effopd.updates import SingularVectors, singular_vectors
from effopd.updates.rank_one import extrapolate_rank_one

ACCURACIES = [0.2, 0.35, 0.3, 0.5]


def straight() -> tuple[Tensor, Tensor, Tensor]:
    """A path `outer(start + accuracy * slope, right)` on which another entry becomes the largest, with another sign."""
    torch.manual_seed(0)
    start, slope, right = torch.randn(9), torch.randn(9), torch.randn(6)
    start, slope = start / 2, slope / 2
    start[0], slope[0] = 3.0, 0.1
    start[1], slope[1] = -5.2, 8.4
    start[3], slope[3] = 0.5, 0.0  # an entry that stands still
    return start.double(), slope.double(), torch.nn.functional.normalize(right.double(), dim=0)


def at(accuracy: float) -> Tensor:
    start, slope, right = straight()
    return torch.outer(start + accuracy * slope, right)


def along(accuracies: Sequence[float]) -> list[SingularVectors]:
    return [singular_vectors(at(accuracy), k=2) for accuracy in accuracies]


@pytest.mark.parametrize("target", [0.9, 0.1, 1.7])
def test_a_path_that_is_linear_in_the_accuracy_is_continued_exactly(target: float) -> None:
    found = extrapolate_rank_one(along(ACCURACIES), ACCURACIES, target)
    assert found is not None
    torch.testing.assert_close(torch.outer(found.column, found.right), at(target), rtol=1e-9, atol=1e-9)
    assert found.r2 == pytest.approx(1.0)


def test_the_rounding_of_a_coordinate_that_stands_still_does_not_count() -> None:
    rounded = along(ACCURACIES)
    for each, rounding in zip(rounded, (-2e-16, 1e-16, 3e-16, -1e-16), strict=True):
        each.left[3, 0] = each.left[3, 0].sign() * 0.5 / each.singular_values[0] + rounding
    found = extrapolate_rank_one(rounded, ACCURACIES, 0.9)
    assert found is not None
    torch.testing.assert_close(torch.outer(found.column, found.right), at(0.9), rtol=1e-9, atol=1e-9)


def test_the_test_needs_the_signs_to_be_aligned() -> None:
    largest = [each.left[:, 0].abs().argmax() for each in along(ACCURACIES)]
    signs = {float(at(accuracy)[index, 0].sign()) for accuracy, index in zip(ACCURACIES, largest, strict=True)}
    assert signs == {-1.0, 1.0}


def test_the_unit_of_the_accuracies_does_not_count() -> None:
    torch.manual_seed(1)
    noisy = [singular_vectors(at(accuracy) + 0.3 * torch.randn(9, 6, dtype=torch.float64)) for accuracy in ACCURACIES]
    one = extrapolate_rank_one(noisy, ACCURACIES, 0.8)
    other = extrapolate_rank_one(noisy, [(value - 0.2) / 0.7 for value in ACCURACIES], (0.8 - 0.2) / 0.7)
    assert one is not None and other is not None
    torch.testing.assert_close(one.column, other.column, rtol=1e-9, atol=1e-9)
    assert 0 <= one.r2 <= 1


def test_where_nothing_can_be_predicted() -> None:
    still = singular_vectors(torch.zeros(9, 6))
    assert extrapolate_rank_one([still, *along([0.2, 0.5])], [0.1, 0.2, 0.5], 0.9) is None  # two checkpoints are left
    assert extrapolate_rank_one([still, *along(ACCURACIES)], [0.1, *ACCURACIES], 0.9) is not None
    assert extrapolate_rank_one(along(ACCURACIES), [0.4] * 4, 0.9) is None
    assert extrapolate_rank_one(along([0.5] * 3), [0.1, 0.2, 0.3], 0.9) is None
    with pytest.raises(DataError, match="4 checkpoints and 3 accuracies"):
        extrapolate_rank_one(along(ACCURACIES), ACCURACIES[:3], 0.9)
