import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from effopd import checks
from effopd.errors import ConfigurationError


@dataclass
class Settings:
    name: str
    seed: int = 0


@pytest.mark.parametrize(
    ("check", "arguments", "bounds"),
    [
        ("number", (1,), {}),
        ("number", (0.0,), {"low": 0, "high": 1}),
        ("number", (1e-9,), {"above": 0}),
        ("whole", (0, 0), {}),
        ("whole", (np.int64(3), 1), {}),
        ("whole", (2**63 - 1, 1), {}),
        ("choice", ("a", ["a", "b"]), {}),
        ("text", ("a",), {}),
        ("file_name", ("a b.c-é", 8), {}),
        ("fields", ({"name": 1}, Settings), {}),
    ],
)
def test_right_values_pass(check: str, arguments: tuple[Any, ...], bounds: dict[str, float]) -> None:
    getattr(checks, f"check_{check}")("x", *arguments, **bounds)


@pytest.mark.parametrize(
    ("check", "arguments", "bounds", "message"),
    [
        ("number", (True,), {}, "got True, expected a finite number."),
        ("number", ("1",), {}, "got '1', expected a finite number."),
        ("number", (math.nan,), {"low": 0}, "got nan, expected a finite number, at least 0."),
        ("number", (math.inf,), {}, "got inf, expected a finite number."),
        ("number", (2,), {"low": 0, "high": 1}, "got 2, expected a finite number from 0 to 1."),
        ("number", (0,), {"above": 0}, "got 0, expected a finite number, above 0."),
        ("number", (1.0,), {"low": 0, "below": 1}, "got 1.0, expected a finite number, at least 0 and below 1."),
        ("number", (-1,), {"above": 0, "high": 9}, "got -1, expected a finite number, above 0 and at most 9."),
        ("whole", (1.0, 0), {}, "got 1.0, expected a whole number of at least 0."),
        ("whole", (True, 0), {}, "got True, expected a whole number of at least 0."),
        ("whole", (0, 1), {}, "got 0, expected a whole number of at least 1."),
        ("whole", (9, 1, 8), {}, "got 9, expected a whole number of at most 8."),
        ("whole", (2**63, 1), {}, f"got {2**63}, expected a whole number of at most {2**63 - 1}."),
        ("number", (0,), {"low": 1, "remedy": "Pay."}, "got 0, expected a finite number, at least 1. Pay."),
        ("whole", (0, 1), {"remedy": "Pay."}, "got 0, expected a whole number of at least 1. Pay."),
        ("choice", ("c", ["a", "b"]), {}, "got 'c', expected one of a, b."),
        ("choice", (["a"], ["a", "b"]), {}, "got ['a'], expected one of a, b."),
        ("text", ("",), {}, "got '', expected text."),
        ("text", (3,), {}, "got 3, expected text."),
        ("list", ("ab",), {}, "got 'ab', expected a list of at least one entry, [a, b, ...]."),
        ("list", ([],), {}, "got [], expected a list of at least one entry, [a, b, ...]."),
        ("list", ([1, 2, 1],), {}, "got 1 twice, expected each entry once."),
        ("fields", ({"name": 1, "sed": 2}, Settings), {}, "got the field 'sed', expected one of name, seed. Did you"),
        ("fields", ({"seed": 2}, Settings), {}, "name is missing."),
        *(
            ("file_name", (name, 8), {}, f"got {name[:60]!r}, expected text that can name a file: at most 8 bytes")
            for name in ("", ".a", "a/b", "a\nb", "a:b", "\udcff", "éééée")
        ),
        ("file_name", (None, 8), {}, "got 'None', expected text that can name a file"),
    ],
)
def test_wrong_values_are_named_with_what_was_expected(
    check: str, arguments: tuple[Any, ...], bounds: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(f"x: {message}")):
        getattr(checks, f"check_{check}")("x", *arguments, **bounds)


def test_a_list_is_returned_as_a_tuple() -> None:
    assert checks.check_list("x", [2, 1]) == (2, 1)
