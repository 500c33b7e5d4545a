"""Evaluation of a model: completions are sampled and graded, and what comes out is averaged over problems.

    from effopd.evaluation import evaluate, load_task

    result = evaluate(model, tokenizer, load_task("world", limit=200), num_samples=4, teacher=teacher)
    result.mean, result.interval, result.pass_at(4), result.truncation_rate, result.kl_per_token

    task = load_task("math500", limit=100).as_chat()       # a public benchmark, as a chat model needs it

`effopd evaluate` does the same from the names of a model and of a task (`evaluate_model`), keeps a record of each
completion, and continues after an interruption. The graders are in `effopd.grading`; three names of the two packages
below can be imported from here, too.
"""

import importlib
from typing import TYPE_CHECKING, Any

from effopd.grading import grade_code, grade_math
from effopd.sandbox import run_program

if TYPE_CHECKING:
    from effopd.evaluation.results import Evaluation, ExampleRecord
    from effopd.evaluation.run import evaluate
    from effopd.evaluation.task import Task
    from effopd.evaluation.tasks import load_task

__all__ = ["Evaluation", "ExampleRecord", "Task", "evaluate", "grade_code", "grade_math", "load_task", "run_program"]

_MODULES = {
    "Evaluation": "results",
    "ExampleRecord": "results",
    "Task": "task",
    "evaluate": "run",
    "load_task": "tasks",
}


def __getattr__(name: str) -> Any:
    """Import what needs torch only when it is first used."""
    if name in _MODULES:
        return getattr(importlib.import_module(f"effopd.evaluation.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'effopd.evaluation' has no attribute {name!r}")
