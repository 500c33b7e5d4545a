import pytest

from effopd.utility import utilities


def test_an_even_update_gives_every_parameter_the_utility_one() -> None:
    assert utilities({"a": (3.0, 3), "b": (8.0, 8)}) == {"a": 1.0, "b": 1.0}


def test_utility_is_the_share_of_the_norm_over_the_share_of_the_elements() -> None:
    found = utilities({"a": (9.0, 10), "b": (1.0, 30)})
    assert found["a"] == pytest.approx(0.9 / 0.25)
    assert found["b"] == pytest.approx(0.1 / 0.75)
    assert 10 / 40 * found["a"] + 30 / 40 * found["b"] == pytest.approx(1)


def test_nothing_that_moved_and_nothing_to_move() -> None:
    assert utilities({"a": (0.0, 3), "b": (0.0, 0)}) == {"a": 0.0, "b": 0.0}
    assert utilities({"a": (1.0, 3), "b": (0.0, 0)}) == {"a": 1.0, "b": 0.0}
