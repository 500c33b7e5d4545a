"""What to evaluate on: prompts, answers and the grader that compares them.

load_task("world")                      # the embedded world's evaluation split; also world:validation, world:train
load_task("problems.jsonl")             # lines with prompt, and answer or tests
load_task("math500")                    # a benchmark, from the hub; `data` takes a file in its format instead
load_task("lm-eval:gsm8k")              # a task of lm-evaluation-harness, with its prompts and its scoring
"""

import random
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from effopd.errors import ConfigurationError, DataError
from effopd.evaluation.backends import Prompt
from effopd.evaluation.benchmarks import BENCHMARKS
from effopd.evaluation.grade_code import grade_code
from effopd.evaluation.grade_math import grade_math
from effopd.evaluation.graders import grade_functions, grade_world
from effopd.evaluation.math_text import check_answer
from effopd.evaluation.rows import SUFFIXES, Row, download_rows, read_rows
from effopd.evaluation.start import check_sandbox
from effopd.evaluation.test_cases import parse_tests
from effopd.evaluation.verdict import Verdict
from effopd.world import TaskConfig, make_dataset

DEFAULT_WORLD_PROBLEMS = 1000
_FILE_MAX_NEW_TOKENS = 4096
_LM_EVAL = "lm-eval:"


@dataclass(frozen=True)
class Task:
    """Problems and how they are graded.

    Attributes:
        name: As given to `load_task`.
        prompts: Texts, which a model continues, or lists of messages, which its chat template renders.
        answers: For each prompt, what the grader compares with.
        grader: From completions and answers, as many of each, to verdicts.
        max_new_tokens: Limit on the tokens of a completion.
    """

    name: str
    prompts: list[Prompt]
    answers: list[Any]
    grader: Callable[[Sequence[str], Sequence[Any]], list[Verdict]]
    max_new_tokens: int

    def __post_init__(self) -> None:
        if len(self.prompts) != len(self.answers) or not self.prompts:
            raise DataError(
                f"{self.name}: got {len(self.prompts)} prompts and {len(self.answers)} answers; expected as many of"
                " each, and at least one."
            )
        if self.max_new_tokens < 1:
            raise ConfigurationError(f"max_new_tokens: got {self.max_new_tokens}, expected at least 1.")

    def check_grader(self) -> None:
        """Check that completions can be graded, before any are sampled.

        Raises:
            UnsupportedError: They are programs, and there is no working sandbox.
        """
        if self.grader in (grade_code, grade_functions):
            check_sandbox()

    def as_chat(self) -> "Task":
        """The same task with every text prompt as a user's message."""
        messages: list[Prompt] = [
            [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt for prompt in self.prompts
        ]
        return replace(self, prompts=messages)


def load_task(name: str, *, limit: int | None = None, seed: int = 0, data: str | Path | None = None) -> Task:
    """Load a task.

    Args:
        name: `world` or `world:SPLIT`; a local file (`.jsonl`, `.json`, `.parquet`, `.arrow`) with the columns `prompt`
            (text or messages), and `answer` (graded as mathematics) or `tests` (graded as code); a benchmark (see
            `BENCHMARKS`); or `lm-eval:NAME`, where NAME is a task of lm-evaluation-harness or the path of its YAML.
        limit: Only the first so many problems; of the world, that many instead of 1000.
        seed: Decides which problems of the world are drawn, how choices are shuffled, and lm-eval's examples.
        data: A local file with the rows of a benchmark, in the benchmark's own columns, in place of the hub's.

    Raises:
        ConfigurationError: There is no such task, or an argument does not go with it.
        DataError: The data cannot be read, or are not as the task has them.
        UnsupportedError: lm-eval is not installed, or its task is not one of generation.
    """
    if limit is not None and limit < 1:
        raise ConfigurationError(f"limit: got {limit}, expected at least 1.")
    if data is not None and name not in BENCHMARKS:
        raise ConfigurationError(
            f"--data takes the rows of a benchmark ({', '.join(BENCHMARKS)}), got task {name!r}. A file of your own is"
            " a task: --task FILE. For lm-eval, write a YAML with `dataset_path: json` and its `data_files`."
        )
    if name.partition(":")[0] == "world":
        return _world(name, limit or DEFAULT_WORLD_PROBLEMS, seed)
    if name.startswith(_LM_EVAL):
        from effopd.evaluation.lm_eval_tasks import load_lm_eval_task

        parts = load_lm_eval_task(name.removeprefix(_LM_EVAL), limit, seed)
        return Task(name, *parts)
    if name in BENCHMARKS:
        return _benchmark(name, limit, seed, None if data is None else Path(data))
    if name.endswith(SUFFIXES):
        return _file(name, limit)
    raise ConfigurationError(
        f"task: got {name!r}, expected world, a file ({', '.join(SUFFIXES)}), lm-eval:NAME, or one of"
        f" {', '.join(BENCHMARKS)}."
    )


def _world(name: str, limit: int, seed: int) -> Task:
    split = name.partition(":")[2] or "evaluation"
    dataset = make_dataset(split, limit, seed)  # type: ignore[arg-type]  # which it checks
    limit_tokens = TaskConfig().max_completion_length + 2
    return Task(name, list(dataset["prompt"]), list(dataset["answer"]), grade_world, limit_tokens)


def _benchmark(name: str, limit: int | None, seed: int, data: Path | None) -> Task:
    benchmark = BENCHMARKS[name]
    if data is not None:
        rows = read_rows(data)
    elif benchmark.hub is not None:
        rows = download_rows(benchmark.hub, benchmark.config, benchmark.split)
    else:
        raise ConfigurationError(
            f"{name}: its dataset on the hub is a script, which `datasets` does not run. Download the file of its"
            f" {benchmark.split} split, and pass --data FILE."
        )
    rng = random.Random(seed)
    prompts: list[Prompt] = []
    answers: list[Any] = []
    left_out: dict[str, int] = {}
    for number, row in enumerate(rows, start=1):
        if limit is not None and len(prompts) == limit:
            break
        converted = _convert(name, number, row, rng, data or benchmark.hub)
        if isinstance(converted, str):
            left_out[converted] = left_out.get(converted, 0) + 1
            continue
        prompts.append(converted[0])
        answers.append(converted[1])
    if left_out:
        reasons = "; ".join(f"{count} because {reason}" for reason, count in left_out.items())
        warnings.warn(f"{name}: left out {sum(left_out.values())} problems, {reasons}.", stacklevel=3)
    return Task(name, prompts, answers, benchmark.grader, benchmark.max_new_tokens)


def _convert(name: str, number: int, row: Row, rng: random.Random, source: Path | str | None) -> Any:
    try:
        converted = BENCHMARKS[name].convert(row, rng)
        if not isinstance(converted, str) and isinstance(converted[1], dict):
            parse_tests(converted[1].get("tests", converted[1]))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"no column {error}" if isinstance(error, KeyError) else str(error)
        raise DataError(
            f"{source}, row {number}: {what}; there are {', '.join(row)}. Is this the format of {name}?"
        ) from error
    return converted


def _file(name: str, limit: int | None) -> Task:
    """Mathematics or code, by the columns of the first row."""
    rows = read_rows(Path(name).expanduser(), limit)
    code = rows[0].get("tests") is not None
    column = "tests" if code else "answer"
    for number, row in enumerate(rows, start=1):
        prompt, answer = row.get("prompt"), row.get(column)
        is_text = isinstance(prompt, str) and prompt.strip()
        if not is_text and not _are_messages(prompt):
            raise DataError(
                f"{name}, row {number}: got {str(prompt)[:80]!r} as prompt, expected text, or messages such as"
                ' [{"role": "user", "content": "..."}].'
            )
        if answer is None or not str(answer).strip():
            raise DataError(f"{name}, row {number}: no {column}; every row needs one, and the first one has {column}.")
        try:
            parse_tests(answer) if code else check_answer(answer)
        except DataError as error:
            raise DataError(f"{name}, row {number}: {error}") from error
    prompts = [row["prompt"] for row in rows]
    answers = [row[column] for row in rows]
    return Task(name, prompts, answers, grade_code if code else grade_math, _FILE_MAX_NEW_TOKENS)


def _are_messages(prompt: Any) -> bool:
    return (
        isinstance(prompt, list)
        and bool(prompt)
        and all(isinstance(message, dict) and isinstance(message.get("content"), str) for message in prompt)
    )
