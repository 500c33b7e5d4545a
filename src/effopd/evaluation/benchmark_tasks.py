"""A public benchmark as a task: its rows from the hub or a file, each turned into a prompt and an answer."""

import random
import warnings
from pathlib import Path
from typing import Any

from effopd.errors import ConfigurationError, DataError
from effopd.evaluation.benchmarks import BENCHMARKS
from effopd.evaluation.dataset_rows import Row, download_rows, read_rows
from effopd.evaluation.prompts import Prompt
from effopd.evaluation.task import Task
from effopd.grading import parse_tests


def load_benchmark(name: str, limit: int | None, seed: int, data: Path | None) -> Task:
    """Load a public benchmark. This warns of problems that are left out because they cannot be graded.

    Args:
        name: Name of the benchmark, a key of `BENCHMARKS`.
        limit: Number of problems to take, from the first on; None takes all.
        seed: Random seed for shuffling choices.
        data: File with the benchmark's rows, in its own columns; None downloads them from the hub.

    Raises:
        ConfigurationError: The hub cannot give the rows of this benchmark, so that a file is needed.
        DataError: The rows cannot be read, or do not have the benchmark's columns.
    """
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
            f"{source}, row {number}: {what}; the keys are {', '.join(map(repr, row))}. Is this the format of {name}?"
        ) from error
    return converted
