r"""Grading what a model writes: mathematics by the final answer, programs by their tests.

    from effopd.grading import grade_code, grade_math

    grade_math([r"so it is \boxed{0.5}"], [r"\frac{1}{2}"])[0].passed                          # True

    tests = {"unit": "assert square(3) == 9"}
    [verdict] = grade_code(["```python\ndef square(x):\n    return x + x\n```"], [tests])
    verdict.passed, verdict.reason                                     # False, 'wrong answer: assert square(3) == 9'

Every grader takes a batch of completions and what each is compared with, and returns a `Verdict` for each. These two
work on several completions at a time, and training uses them as rewards. A completion that hangs, crashes or attacks
its grader costs only its own verdict. The function `saved_completions.grade_file` grades a file of completions.
"""

from effopd.grading.completion import Completion
from effopd.grading.fenced_code import extract_code
from effopd.grading.mathematics import grade_math
from effopd.grading.problem_tests import parse_tests
from effopd.grading.programs import grade_code
from effopd.grading.verdict import Verdict

__all__ = ["Completion", "Verdict", "extract_code", "grade_code", "grade_math", "parse_tests"]
