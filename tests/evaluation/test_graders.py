"""Graders for the world, for multiple choice, and for programs whose beginning is given."""

import pytest
from sandboxes import needs_bubblewrap

from effopd import world
from effopd.evaluation.graders import grade_choice, grade_functions, grade_world

STUB = '''from typing import List


def one_more(x: int) -> int:
    return x + 1


def total(xs: List[int]) -> int:
    """Sum."""
'''
TESTS = {"unit": "def check(candidate):\n    assert candidate([1, 2]) == 5\n\ncheck(total)\n"}


@pytest.mark.parametrize(
    ("completion", "kind"),
    [
        (r"\boxed{C}", "passed"),
        (r"\boxed{(C)}", "passed"),
        (r"first \boxed{A}, no: \boxed{\text{C}}", "passed"),
        (r"\boxed{C. It is so}", "passed"),
        (r"\boxed{\textbf{(C)} 12 m}", "passed"),
        (r"\boxed{\text{Option C}}", "passed"),
        (r"\boxed{Choice: (C)}", "passed"),
        (r"\boxed{c}", "passed"),
        (r"\boxed{c) 12 m}", "passed"),
        (r"\boxed{c m^2}", "no answer"),
        ("The answer is (C).", "passed"),
        ("**Answer: C**", "passed"),
        ("The answer is (c).", "passed"),
        ("The correct option is C", "passed"),
        ("**Correct choice is:** C", "passed"),
        ("the answer is option C, not", "passed"),
        ("C", "passed"),
        (" **(c)**. ", "passed"),
        (r"\boxed{A}</think>The answer is C", "passed"),
        (r"\boxed{B}", "wrong answer"),
        ("The answer is A. No, the answer is B.", "wrong answer"),
        (r"\boxed{Carbon}", "no answer"),
        (r"\boxed{", "no answer"),
        ("answer is c", "no answer"),
        ("The answer is a good one", "no answer"),
        ("The answer is I don't know", "no answer"),
        ("C and D", "no answer"),
        ("the answer is Carbon", "no answer"),
    ],
)
def test_choices(completion: str, kind: str) -> None:
    [verdict] = grade_choice([completion], ["C"])
    assert verdict.kind == kind
    assert verdict.passed == (kind == "passed")


def test_the_world() -> None:
    dataset = world.make_dataset("evaluation", 1)
    answer = dataset["answer"][0]
    wrong = str((int(answer) + 1) % 10)
    verdicts = grade_world([f"#{answer}", f"#{wrong}", f"{answer}#"], [answer] * 3)
    assert [verdict.kind for verdict in verdicts] == ["passed", "wrong answer", "malformed"]


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
        ("```java\nreturn 5;\n```", False),
        ("", False),
    ],
)
def test_functions_whose_beginning_is_given(completion: str, passed: bool) -> None:
    [verdict] = grade_functions([completion], [{"prefix": STUB, "tests": TESTS}])
    assert verdict.passed == passed
    assert "syntax" not in verdict.reason.lower()
