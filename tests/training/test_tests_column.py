"""Tests of programming problems, found where a dataset has them."""

import json
import logging
from typing import Any

import pytest
from datasets import Dataset

from effopd.errors import DataError
from effopd.grading import parse_tests
from effopd.training.tests_column import with_tests

PAIRS = {"inputs": ["1 2\n", ["3", "4"]], "outputs": ["3\n", ["7"]]}
STDIN = (("1 2\n", "3\n"), ("3\n4", "7"))


def rows(*ground_truths: Any) -> Dataset:
    """Rows as verl has them."""
    return Dataset.from_list(
        [
            {"prompt": f"problem {number}", "reward_model": {"style": "rule", "ground_truth": truth}}
            for number, truth in enumerate(ground_truths, 1)
        ]
    )


def test_inputs_and_outputs_mean_stdin() -> None:
    assert parse_tests(PAIRS).stdin == STDIN
    assert parse_tests(json.dumps(PAIRS | {"fn_name": None, "time_limit_s": 2})).time_s == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fn_name": "solve"}, "fn_name is 'solve': they call a function"),
        ({"outputs": ["3"]}, "expected two lists of one length"),
        ({"outputs": None}, "outputs is None, expected two lists"),
        ({"outputs": [" ", ""]}, "no stdin case expects any output"),
        ({"outputs": [3, 7]}, "stdin case 1 is .* both text"),
        ({"stdin": [{"input": "", "output": "1"}], "inputs": None}, "inputs is None"),
    ],
)
def test_pairs_that_test_nothing_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        parse_tests(PAIRS | changes)


def test_tests_come_from_inside_a_column_and_rows_without_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    dataset = rows(json.dumps(PAIRS), "42", json.dumps(PAIRS | {"fn_name": "f"}), "42", json.dumps(PAIRS))
    with caplog.at_level(logging.WARNING):
        found = with_tests(dataset, "reward_model.ground_truth", "eurus")
    assert found["prompt"] == ["problem 1", "problem 5"]
    assert all(parse_tests(tests).stdin == STDIN for tests in found["tests"])
    assert "3 of 5 rows have no tests that can be run (row 2: tests: got a int" in caplog.text


def test_a_column_of_mappings_is_left_as_it_is() -> None:
    dataset = Dataset.from_list([{"prompt": "?", "tests": {"stdin": [{"input": "1", "output": "2"}]}}] * 2)
    assert with_tests(dataset, "tests", "mine") is dataset


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ("tests", r"needs a column 'tests'; there are prompt, reward_model\. Set tests_column"),
        ("reward_model.answer", r"2 of 2 rows have no tests that can be run \(row 1: tests: there is no key 'answer'"),
        ("reward_model.ground_truth", r"2 of 2 rows .* \(row 1: tests: got a int"),
    ],
)
def test_a_dataset_without_any_is_refused(column: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        with_tests(rows("1", "2"), column, "maths")
