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
        (r"\boxed{\textrm{C}}", "passed"),
        (r"\boxed{\text{\textbf{C}}}", "passed"),
        (r"\boxed{**C**}", "passed"),
        (r"\boxed{[C]}", "passed"),
        (r"\boxed{**C** or **A**}", "no answer"),
        (r"\boxed{[C], [A]}", "no answer"),
        (r"\boxed{c) 12 m}", "passed"),
        (r"The answer is $\text{C}$", "passed"),
        (r"The answer is $\mathbf{(C)}$.", "passed"),
        (r"$\mathrm{C}$", "passed"),
        ("The correct answer is: C, because the answer A is wrong.", "passed"),
        ("The answer is A. No: **A** is not, the answer **C** is right.", "passed"),
        (r"\boxed{C. A and B}", "passed"),
        (r"\boxed{C, a base}", "passed"),
        (r"\boxed{C, D, A, B}", "no answer"),
        (r"\boxed{C or A}", "no answer"),
        (r"\boxed{\text{(c)} \text{ and } \text{(a)}}", "no answer"),
        (r"\boxed{C,\ \text{or}\ B is right}", "no answer"),
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
