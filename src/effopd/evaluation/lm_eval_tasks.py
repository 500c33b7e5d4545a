"""Tasks of lm-evaluation-harness: its data, prompts and scoring, with our sampling and statistics.

    load_task("lm-eval:gsm8k")                       # as lm-eval defines it: five examples before each question
    load_task("lm-eval:gsm8k_local.yaml")            # a task file, for instance with `dataset_path: json`

A completion is cut where the task's stop sequences would have ended it. It passes if the first metric of the task,
after the task's first filter, is 1 (or 0, if lower is better). The reason names all metrics, each with its filter.
"""

import difflib
import random
from collections.abc import Sequence
from numbers import Real
from typing import Any

from effopd.errors import ConfigurationError, DataError, EffOPDError, UnsupportedError
from effopd.evaluation.task import Task
from effopd.grading import Verdict

PREFIX = "lm-eval:"
_DEFAULT_MAX_NEW_TOKENS = 1024


def load_lm_eval_task(name: str, limit: int | None, seed: int) -> Task:
    """Load a task of lm-evaluation-harness.

    Args:
        name: `lm-eval:`, followed by the name of a task (not of a group) or by the path of a task's YAML.
        limit: Number of problems to take, from the first on; None takes all.
        seed: Random seed for the examples in the prompts, and for what the task shuffles.

    Returns:
        The task. Its answers are the documents of lm-eval's task.

    Raises:
        ConfigurationError: There is no such task, or it is a group.
        DataError: The file or the data of the task cannot be loaded.
        UnsupportedError: lm-eval is not installed, or the task does not generate, or it runs code without a sandbox.
    """
    name = name.removeprefix(PREFIX)
    try:
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise UnsupportedError(
            f"lm-eval:{name} needs lm-evaluation-harness, which cannot be imported ({error}): pip install"
            " 'effopd[lm-eval]'."
        ) from error
    manager = TaskManager(include_defaults=not name.endswith((".yaml", ".yml")))
    if name not in manager.all_subtasks and not name.endswith((".yaml", ".yml")):
        close = difflib.get_close_matches(name, manager.all_subtasks) or manager.match_tasks([f"{name}*"])[:10]
        raise ConfigurationError(f"lm-eval has no task {name!r}; expected one such as {', '.join(close) or 'gsm8k'}.")
    state = random.getstate()
    random.seed(seed)  # some tasks shuffle choices with the global generator
    try:
        [task] = manager.load(name)["tasks"].values()
        _check(task)
        task.set_fewshot_seed(seed)
        documents = list(task.eval_docs)[:limit]
        prompts = [task.fewshot_context(document, num_fewshot=task.config.num_fewshot or 0) for document in documents]
    except EffOPDError:
        raise
    except (OSError, RuntimeError, LookupError, ValueError) as error:
        raise DataError(f"lm-eval:{name}: cannot be loaded: {error}") from error
    finally:
        random.setstate(state)
    max_new_tokens = int((task.config.generation_kwargs or {}).get("max_gen_toks", _DEFAULT_MAX_NEW_TOKENS))
    return Task(f"{PREFIX}{name}", prompts, documents, _Grader(task), max_new_tokens)


def _check(task: Any) -> None:
    if task.OUTPUT_TYPE != "generate_until":
        raise UnsupportedError(
            f"lm-eval:{task.task_name} is scored by {task.OUTPUT_TYPE}, and completions are sampled here; choose a task"
            " with `output_type: generate_until`."
        )
    if task.config.unsafe_code:
        raise UnsupportedError(
            f"lm-eval:{task.task_name} runs code without a sandbox; use --task humaneval or mbpp, or a file with tests."
        )


class _Grader:
    """Scores completions as lm-eval's task does."""

    def __init__(self, task: Any) -> None:
        self._task = task
        until = (task.config.generation_kwargs or {}).get("until") or []
        self._until = [until] if isinstance(until, str) else list(until)

    def __call__(self, completions: Sequence[str], documents: Sequence[Any]) -> list[Verdict]:
        from lm_eval.api.instance import Instance

        instances = [
            Instance("generate_until", document, ("", {}), 0, resps=[self._cut(completion)])
            for completion, document in zip(completions, documents, strict=True)
        ]
        for pipeline in self._task._filters:
            pipeline.apply(instances)
        return [self._verdict(instance) for instance in instances]

    def _cut(self, completion: str) -> str:
        for stop in self._until:
            completion = completion.partition(stop)[0]
        return completion

    def _verdict(self, instance: Any) -> Verdict:
        scores = {
            f"{metric},{name}": float(value)
            for name, response in instance.filtered_resps.items()
            for metric, value in self._task.process_results(instance.doc, [response]).items()
            if isinstance(value, Real)
        }
        if not scores:
            raise DataError(f"lm-eval:{self._task.task_name} gave no number; choose another task.")
        key, value = next(iter(scores.items()))
        best = 1.0 if self._task.higher_is_better().get(key.partition(",")[0], True) else 0.0
        detail = ", ".join(f"{name} {score:g}" for name, score in scores.items())
        return Verdict(value == best, "passed" if value == best else "wrong answer", detail)
