"""Functions whose beginning the prompt gives."""

import pytest
from sandbox.sandboxes import needs_bubblewrap

from effopd.grading.functions import grade_functions

STUB = '''from typing import List


def one_more(x: int) -> int:
    return x + 1


def total(xs: List[int]) -> int:
    """Sum."""
'''
TESTS = {"unit": "def check(candidate):\n    assert candidate([1, 2]) == 5\n\ncheck(total)\n"}


@needs_bubblewrap
@pytest.mark.parametrize(
    ("completion", "passed"),
    [
        ("```python\ndef total(xs: List[int]) -> int:\n    return sum(map(one_more, xs))\n```", True),
        ("```python\n    return sum(map(one_more, xs))\n```", True),
        (
            "```python\nfrom __future__ import annotations\ndef total(xs: list[int]):\n    return sum(xs) + 2\n```",
            True,
        ),
        ("```python\ndef total(xs):\n    return sum(xs)\n```", False),
        (
            "~~~python\ndef total(xs):\n    '''\n```\ntotal([1])\n```\n    '''\n    return sum(xs) + 2\n~~~",
            True,
        ),
        ("```java\nreturn 5;\n```", False),
        ("", False),
    ],
)
def test_functions_whose_beginning_is_given(completion: str, passed: bool) -> None:
    [verdict] = grade_functions([completion], [{"prefix": STUB, "tests": TESTS}])
    assert verdict.passed == passed
    assert "syntax" not in verdict.reason.lower()
