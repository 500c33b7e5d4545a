r"""Evaluation: sampling from a model and grading what it writes.

    from effopd.evaluation import evaluate, load_task

    result = evaluate(model, tokenizer, load_task("world", limit=200), num_samples=4, teacher=teacher)
    result.mean, result.interval, result.pass_at(4), result.truncation_rate, result.kl_per_token

Mathematics is graded by the final answer, programs by their tests:

    from effopd.evaluation import grade_code, grade_math

    grade_math([r"so it is \boxed{0.5}"], [r"\frac{1}{2}"])[0].passed                          # True

    tests = {"unit": "assert square(3) == 9"}
    [verdict] = grade_code(["```python\ndef square(x):\n    return x + x\n```"], [tests])
    verdict.passed, verdict.reason                                     # False, 'wrong answer: assert square(3) == 9'

Both take batches, work on several completions at a time, and are what training uses as rewards. A completion that
hangs, crashes or attacks its grader costs its own verdict. `grade_file` grades a file of saved completions.
"""

from typing import TYPE_CHECKING, Any

from effopd.evaluation.extract import extract_code
from effopd.evaluation.grade_code import grade_code
from effopd.evaluation.grade_math import grade_math
from effopd.evaluation.limits import Limits
from effopd.evaluation.sandbox import Outcome, run_program
from effopd.evaluation.test_cases import parse_tests
from effopd.evaluation.verdict import Completion, Verdict

if TYPE_CHECKING:
    from effopd.evaluation.run import Evaluation, ExampleRecord, evaluate
    from effopd.evaluation.tasks import Task, load_task

__all__ = [
    "Completion",
    "Evaluation",
    "ExampleRecord",
    "Limits",
    "Outcome",
    "Task",
    "Verdict",
    "evaluate",
    "extract_code",
    "grade_code",
    "grade_math",
    "load_task",
    "parse_tests",
    "run_program",
]


def __getattr__(name: str) -> Any:
    """Load what needs torch when it is first used: graders and their worker processes do without."""
    if name in ("Task", "load_task"):
        from effopd.evaluation import tasks

        return getattr(tasks, name)
    if name in ("Evaluation", "ExampleRecord", "evaluate"):
        from effopd.evaluation import run

        return getattr(run, name)
    raise AttributeError(f"module 'effopd.evaluation' has no attribute {name!r}")
