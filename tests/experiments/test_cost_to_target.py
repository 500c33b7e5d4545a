import math

import pytest

from effopd.errors import DataError
from effopd.experiments.cost_to_target import QUANTITIES, cost_range, to_target


def make_rows(accuracies, scales=None):
    """Rows of a run of 100 rollouts per step; validation costs 10 at each trigger."""
    scales = scales or [None] * len(accuracies)
    rows = []
    for step, (accuracy, scale) in enumerate(zip(accuracies, scales, strict=True), start=1):
        validation = 10 * sum(value is not None for value in scales[:step])
        rows.append(
            {
                "step": step,
                "optimizer_steps": 4 * step,
                "accuracy": accuracy,
                "accepted_scale": scale,
                "rollouts": 100 * step + validation,
                "validation_rollouts": validation,
                "generated_tokens": 1000 * step,
                "teacher_tokens": 900 * step,
                "seconds_total": 0.5 * step,
            }
        )
    return rows


def test_the_first_row_that_reaches_the_target_counts():
    rows = make_rows([0.5, None, 0.96, 0.9, 0.97], scales=[2.0, 0.0, None, 4.0, None])
    assert to_target(rows, 0.95) == {
        "steps_to_target": 3,
        "optimizer_steps_to_target": 12,
        "rollouts_to_target": 320,
        "generated_tokens_to_target": 3000,
        "teacher_tokens_to_target": 2700,
        "seconds_to_target": 1.5,
        "validation_rollouts": 20,
        "num_accepted": 1,  # neither the rejection at step 2 nor what came after the target
        "final_accuracy": 0.97,
        "spent": {
            "steps_to_target": 5,
            "optimizer_steps_to_target": 20,
            "rollouts_to_target": 530,
            "generated_tokens_to_target": 5000,
            "teacher_tokens_to_target": 4500,
            "seconds_to_target": 2.5,
        },
    }


def test_a_part_of_the_update_that_is_taken_back_counts_as_accepted():
    assert to_target(make_rows([0.5, 0.6, 0.96], scales=[-0.5, 0.0, 2.0]), 0.95)["num_accepted"] == 2


def test_an_accuracy_equal_to_the_target_reaches_it():
    assert to_target(make_rows([0.95]), 0.95)["steps_to_target"] == 1


def test_a_run_that_never_gets_there_has_no_cost_but_what_it_spent():
    result = to_target(make_rows([0.5, 0.6, None], scales=[2.0, 4.0, None]), 0.95)
    assert all(result[quantity] is None for quantity in QUANTITIES)
    assert result["validation_rollouts"] == 20
    assert result["num_accepted"] == 2
    assert result["final_accuracy"] == 0.6
    assert cost_range(result, "rollouts_to_target") == (320, math.inf)


def test_without_an_evaluation_there_is_no_final_accuracy():
    assert to_target(make_rows([None]), 0.5)["final_accuracy"] is None


def test_no_rows_are_refused():
    with pytest.raises(DataError, match="no rows"):
        to_target([], 0.95)


def test_the_cost_of_a_run_that_got_there_is_exact():
    assert cost_range(to_target(make_rows([0.99]), 0.95), "steps_to_target") == (1, 1)


def test_rows_of_earlier_versions_do_not_count_optimizer_steps():
    rows = [{name: value for name, value in row.items() if name != "optimizer_steps"} for row in make_rows([0.5, 0.99])]
    result = to_target(rows, 0.95)
    assert "optimizer_steps_to_target" not in {**result, **result["spent"]} and result["steps_to_target"] == 2
