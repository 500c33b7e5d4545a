"""The column of tests that the reward `code` reads, wherever a dataset has them."""

import json
import logging
from collections.abc import Mapping
from typing import Any

from datasets import Dataset

from effopd.errors import DataError
from effopd.grading import parse_tests

logger = logging.getLogger(__name__)

COLUMN = "tests"
"""Column that the reward `code` reads."""


def with_tests(dataset: Dataset, column: str, name: str) -> Dataset:
    """Put the tests of a dataset into the column `tests`, having checked them.

    Args:
        dataset: Rows of problems.
        column: Column that has the tests, as `effopd.grading.parse_tests` takes them. After a dot comes a key of the
            mappings in the column: `reward_model.ground_truth`, as in datasets for verl.
        name: Name of the dataset, for messages.

    Returns:
        The rows whose tests can be run. The others are left out with a warning, which says how many and why.

    Raises:
        DataError: There is no such column, or no row has tests that can be run.
    """
    first, *keys = column.split(".")
    if first not in dataset.column_names:
        raise DataError(
            f"{name}: the reward 'code' needs a column {first!r}; there are {', '.join(dataset.column_names)}. Set "
            "tests_column, and see docs/evaluation.md for what tests look like."
        )
    kept: list[int] = []
    tests: list[Any] = []
    reasons: dict[str, tuple[int, int]] = {}  # how many rows were left out, and the first of them
    for row, value in enumerate(dataset[first]):
        try:
            found = _inside(value, keys)
            parse_tests(found)
        except DataError as error:
            number, earliest = reasons.get(str(error), (0, row + 1))
            reasons[str(error)] = number + 1, earliest
            continue
        kept.append(row)
        tests.append(found if isinstance(found, str) else json.dumps(found))
    if reasons:
        reason, (_, row) = max(reasons.items(), key=lambda item: item[1][0])
        left_out = (
            f"{len(dataset) - len(kept)} of {len(dataset)} rows have no tests that can be run (row {row}: {reason})"
        )
        if not kept:
            raise DataError(f"{name}, column {column!r}: {left_out}")
        logger.warning("%s, column %r: %s; they are left out.", name, column, left_out.rstrip("."))
        dataset = dataset.select(kept)
    return dataset if column == COLUMN else _replaced(dataset, tests)


def _inside(value: Any, keys: list[str]) -> Any:
    for key in keys:
        if not isinstance(value, Mapping) or key not in value:
            raise DataError(f"tests: there is no key {key!r} in {str(value)[:80]!r}.")
        value = value[key]
    return value


def _replaced(dataset: Dataset, tests: list[Any]) -> Dataset:
    if COLUMN in dataset.column_names:
        dataset = dataset.remove_columns(COLUMN)
    return dataset.add_column(COLUMN, tests)
