"""Tests of problems are checked before anything runs."""

import math
from typing import Any

import pytest

from effopd.errors import DataError
from effopd.grading import parse_tests
from effopd.sandbox import Limits

CASE = {"input": "1", "output": "2"}


def test_stdin() -> None:
    tests = parse_tests({"stdin": [CASE], "unit": None, "time_limit_s": 2, "memory_limit_mb": 64})
    assert tests.stdin == (("1", "2"),)
    assert tests.limits(Limits(processes=7)) == Limits(time_s=2, memory_mb=64, processes=7)
    assert parse_tests('{"stdin": [{"input": "1", "output": "2"}]}').limits(Limits()) == Limits()


@pytest.mark.parametrize(
    ("unit", "names", "modules"),
    [
        ("assert f(1) == sum([1])", ("f",), {}),
        ("assert all(f(x) == g(x) for x in range(3))", ("f", "g"), {}),
        ("x = 1\ndef check(h):\n    y = x\n    assert h(y)\ncheck(f)", ("f",), {}),
        ("import math\nassert math.isclose(f(1), 2)", ("f",), {}),
        ("assert math.isclose(f(1), 2) and isclose(f(2), 3)", ("f",), {"isclose": "math:isclose", "math": "math"}),
        ("assert np.allclose(f(1), 2)", ("f",), {"np": "numpy"}),
        ("assert sum(1, 2) == 3", ("sum",), {}),
        ("try:\n    sum('')\nexcept ValueError:\n    pass\nassert sum(1, 2) == 3", ("sum",), {}),
        ("from solution import f\nassert f(1) == 2", (), {}),
        ("import solution\nassert solution.f(1) == 2", (), {}),
        ("from solution import f\nassert abs(f(1) - 1) < 1e-6", (), {}),
        ("import solution\nassert all([solution.f(1) == 1])", (), {}),
        ("from solution import sum\nassert sum(1, 2) == 3", (), {}),
        ("class A:\n    def m(self):\n        return f(1)\nassert A().m() == 2", ("f",), {}),
        ("def g():\n    global state\n    state = 1\ng()\nassert f(state)", ("f",), {}),
        ("from unittest import *\nclass T(TestCase):\n    def test(self): self.assertEqual(f(1), 2)", None, {}),
    ],
)
def test_names_that_the_program_has_to_define(
    unit: str, names: tuple[str, ...] | None, modules: dict[str, str]
) -> None:
    tests = parse_tests({"unit": unit})
    assert names is None or tests.names == names
    assert tests.modules == modules


@pytest.mark.parametrize(
    ("tests", "message"),
    [
        (None, "got a NoneType"),
        ([], "got a list"),
        ("{", "not JSON"),
        ({}, "got neither"),
        ({"stdin": [CASE], "unit": "assert f()"}, "got both"),
        ({"stdin": [CASE], "time": 3}, r"unknown keys \['time'\]"),
        ({"stdin": []}, "at least one case"),
        ({"stdin": [CASE, {"input": "1"}]}, "case 2 is"),
        ({"stdin": [{"input": 1, "output": 2}]}, "both text"),
        ({"stdin": [{"input": "1", "output": "\n"}]}, "does nothing would pass"),
        ({"stdin": [CASE], "time_limit_s": "3"}, "expected a number"),
        ({"stdin": [CASE], "time_limit_s": -1}, "above 0"),
        ({"stdin": [CASE], "time_limit_s": True}, "expected a number"),
        ({"stdin": [CASE], "time_limit_s": 10**400}, "expected a number"),
        ({"stdin": [CASE], "memory_limit_mb": 1}, "at least 32"),
        ({"stdin": [CASE], "memory_limit_mb": 1e15}, "at most 1048576"),
        ({"stdin": [CASE], "memory_limit_mb": math.inf}, "expected a number"),
        ('{"stdin": [], "time_limit_s": ' + "9" * 5000 + "}", "not JSON"),
        ({"unit": ""}, "expected Python source"),
        ({"unit": ["assert f()"]}, "expected Python source"),
        ({"unit": "assert f( == 1"}, "not Python"),
        ({"unit": "print(f(1) == 2)"}, "asserts nothing"),
        ({"unit": "assert 1 == 1"}, "uses no name"),
        ({"unit": "import math\nassert abs(math.pi - 3) < 1"}, "uses no name.*from solution import"),
        ({"unit": "assert abs(math.pi) < 4"}, "uses no name"),
        ({"unit": "assert __import__('solution').f(1) == 2"}, "uses no name"),
        ({"unit": "assert len(sum(1, 2)) == 3"}, "uses no name"),
        ({"unit": "def check(candidate):\n    assert candidate(1) == 2"}, "never calls it"),
    ],
)
def test_what_is_wrong_is_said(tests: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        parse_tests(tests)
