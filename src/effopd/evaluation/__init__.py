r"""Grading completions: mathematics by the final answer, programs by their tests.

    from effopd.evaluation import grade_code, grade_math

    grade_math([r"so it is \boxed{0.5}"], [r"\frac{1}{2}"])[0].passed                          # True

    tests = {"unit": "assert square(3) == 9"}
    [verdict] = grade_code(["```python\ndef square(x):\n    return x + x\n```"], [tests])
    verdict.passed, verdict.reason                                     # False, 'wrong answer: assert square(3) == 9'

Both take batches, work on several completions at a time, and are what training uses as rewards. A completion that
hangs, crashes or attacks its grader costs its own verdict. `grade_file` grades a file of saved completions.
"""

from effopd.evaluation.grade_code import grade_code
from effopd.evaluation.grade_math import grade_math
from effopd.evaluation.limits import Limits
from effopd.evaluation.sandbox import Outcome, run_program
from effopd.evaluation.test_cases import parse_tests
from effopd.evaluation.verdict import Completion, Verdict

__all__ = ["Completion", "Limits", "Outcome", "Verdict", "grade_code", "grade_math", "parse_tests", "run_program"]
