"""The factor of the norm scaling."""

import pytest

from effopd.interventions import norm_match_factor


@pytest.mark.parametrize(
    ("early", "final", "beta", "expected"),
    [(0.3, 0.3, 1, 1), (0.3, 7, 0, 1), (2, 5, 1, 2.5), (2, 5, 0.5, 1.75), (2, 0, 1, 0), (0, 5, 1, 1)],
)
def test_factor(early: float, final: float, beta: float, expected: float) -> None:
    assert norm_match_factor(early, final, beta) == expected
