"""Multiple choice: which letter a completion chooses."""

import pytest

from effopd.grading.choice import grade_choice


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
