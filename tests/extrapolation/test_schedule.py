from collections.abc import Sequence

import pytest

from effopd.errors import ConfigurationError
from effopd.extrapolation.schedule import parse_schedule


@pytest.mark.parametrize(
    ("spec", "steps"),
    [
        ("powers_of_two", [1, 2, 4, 8, 16, 32]),
        ("every:10", [10, 20, 30, 40]),
        ("every:2:1", [*range(1, 41, 2)]),
        ("every:15:3", [3, 18, 33]),
        ([5, 7], [5, 7]),
    ],
)
def test_schedules(spec: str | Sequence[int], steps: list[int]) -> None:
    schedule = parse_schedule(spec)
    assert [step for step in range(41) if schedule(step)] == steps


@pytest.mark.parametrize("spec", ["sometimes", "every", "every:0", "every:2:0", "every:-1", "every:1:2:3", [], [0, 3]])
def test_bad_schedules(spec: str | Sequence[int]) -> None:
    with pytest.raises(ConfigurationError):
        parse_schedule(spec)
