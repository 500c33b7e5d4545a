"""Loading a task by its name.

load_task("world")                      # the embedded world's evaluation split; also world:validation, world:train
load_task("world:facts/evaluation")     # a split of another embedded world
load_task("problems.jsonl")             # a file whose lines have prompt, and answer or tests
load_task("math500")                    # a benchmark from the hub, or with `data` from a file in its own columns
load_task("lm-eval:gsm8k")              # a task of lm-evaluation-harness, with its prompts and its scoring
"""

from functools import cache, partial
from pathlib import Path

from effopd.checks import check_whole
from effopd.errors import ConfigurationError
from effopd.evaluation.benchmark_tasks import load_benchmark
from effopd.evaluation.benchmarks import BENCHMARKS
from effopd.evaluation.dataset_rows import SUFFIXES
from effopd.evaluation.file_tasks import load_file
from effopd.evaluation.lm_eval_tasks import PREFIX, load_lm_eval_task
from effopd.evaluation.task import Grader, Task
from effopd.grading.world import grade_world
from effopd.world import make_dataset, split_name, task_config

DEFAULT_WORLD_PROBLEMS = 1000


def load_task(name: str, *, limit: int | None = None, seed: int = 0, data: str | Path | None = None) -> Task:
    """Load a task.

    Args:
        name: `world`, `world:SPLIT` or `world:WORLD/SPLIT`; a local file (`.jsonl`, `.json`, `.parquet`, `.arrow`) with
            the columns `prompt` (text or messages), and `answer` (graded as mathematics) or `tests` (graded as code); a
            benchmark (see `BENCHMARKS`); or `lm-eval:NAME`, where NAME is a task of lm-evaluation-harness or the path
            of its YAML.
        limit: Number of problems to take, from the first on. None takes all, and for the world 1000.
        seed: Random seed that decides which problems of the world are drawn, how choices are shuffled, and which
            examples lm-eval puts into its prompts.
        data: Local file with the rows of a benchmark, in the benchmark's own columns. None takes those of the hub.

    Raises:
        ConfigurationError: There is no such task, or an argument does not go with it.
        DataError: The data cannot be read, or do not have the columns of the task.
        UnsupportedError: lm-eval is not installed, or its task does not generate or runs code without a sandbox.
    """
    if limit is not None:
        check_whole("limit", limit, 1)
    if data is not None and name not in BENCHMARKS:
        raise ConfigurationError(
            f"--data takes the rows of a benchmark ({', '.join(BENCHMARKS)}), got task {name!r}. A file of your own is"
            " a task: --task FILE. For lm-eval, write a YAML with `dataset_path: json` and its `data_files`."
        )
    if name.partition(":")[0] == "world":
        return _world(name, limit or DEFAULT_WORLD_PROBLEMS, seed)
    if name.startswith(PREFIX):
        return load_lm_eval_task(name, limit, seed)
    if name in BENCHMARKS:
        return load_benchmark(name, limit, seed, None if data is None else Path(data))
    if name.endswith(SUFFIXES):
        return load_file(name, limit)
    raise ConfigurationError(
        f"task: got {name!r}, expected world, a file ({', '.join(SUFFIXES)}), lm-eval:NAME, or one of"
        f" {', '.join(BENCHMARKS)}."
    )


def _world(name: str, limit: int, seed: int) -> Task:
    world, split = split_name(name)
    config = task_config(world)
    dataset = make_dataset(split or "evaluation", limit, seed, config)  # type: ignore[arg-type]  # which it checks
    limit_tokens = config.max_completion_length + 2
    return Task(name, list(dataset["prompt"]), list(dataset["answer"]), _grader(config.num_operations), limit_tokens)


@cache  # so that the same task has the same grader
def _grader(num_operations: int) -> Grader:
    return partial(grade_world, num_operations=num_operations)
