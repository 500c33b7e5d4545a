"""The multiple of the learning rate: what the optimizer steps with, what others see, and what the user is told."""

import logging
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from tiny import distillation_trainer

from effopd.extrapolation.learning_rate import LARGEST_MULTIPLE, LearningRateMultiple
from extrapolation.scripted import records
from extrapolation.test_next_rollouts import add


def sgd(rate: float) -> torch.optim.Optimizer:
    parameter = torch.nn.Parameter(torch.zeros(1))
    parameter.grad = torch.ones(1)
    return torch.optim.SGD([parameter], lr=rate)


def moved_by_a_step(optimizer: torch.optim.Optimizer) -> float:
    (parameter,) = optimizer.param_groups[0]["params"]
    before = parameter.item()
    optimizer.step()
    return float(before - parameter.item())


def test_it_multiplies_the_rate_while_the_optimizer_steps_and_only_then() -> None:
    optimizer, multiple = sgd(0.125), LearningRateMultiple(4.0)
    active = True
    multiple.attach(optimizer, lambda: active)
    assert moved_by_a_step(optimizer) == 0.5
    assert optimizer.param_groups[0]["lr"] == 0.125
    multiple.attach(optimizer, lambda: active)  # a second time, which does not multiply twice
    assert moved_by_a_step(optimizer) == 0.5
    active = False
    assert moved_by_a_step(optimizer) == 0.125
    active = True
    multiple.detach()
    assert moved_by_a_step(optimizer) == 0.125


def test_it_learns_the_product_of_the_factors_within_bounds() -> None:
    multiple = LearningRateMultiple()
    for factor in (64.0, 2.0, 0.5, 1.0, 1 / 16, 4.0):  # of those after the fourth, the square roots
        multiple.learn(factor, sgd(1e-5))
    assert multiple.multiple == 32
    for _ in range(5):
        multiple.learn(2.0**20, sgd(1e-5))
    assert multiple.multiple == LARGEST_MULTIPLE
    for _ in range(10):
        multiple.learn(2.0**-40, sgd(1e-5))
    assert multiple.multiple == 1 / LARGEST_MULTIPLE


def said(
    caplog: pytest.LogCaptureFixture, multiple: LearningRateMultiple, factors: Sequence[float], rate: float
) -> list[str]:
    """What it said after each factor, or nothing."""
    messages = []
    for factor in factors:
        caplog.clear()
        with caplog.at_level(logging.WARNING, "effopd"):
            multiple.learn(factor, sgd(rate))
        messages.append(" ".join(caplog.messages))
    return messages


def test_the_user_is_told_once_that_the_rate_is_too_small(caplog: pytest.LogCaptureFixture) -> None:
    messages = said(caplog, LearningRateMultiple(), (32.0, 1.0, 0.5, 1.0, 1.0, 2.0), 1e-5)
    assert [bool(message) for message in messages] == [False] * 3 + [True] + [False] * 2
    assert "Your learning rate of 1e-05 is about 16 times too small" in messages[3]
    assert "steps with 0.00016" in messages[3]


def test_the_user_is_told_that_the_rate_is_too_large(caplog: pytest.LogCaptureFixture) -> None:
    messages = said(caplog, LearningRateMultiple(), (0.25, 0.5, 1.0, 1.0), 0.1)
    assert "Your learning rate of 0.1 is about 8 times too large" in messages[3]


def test_a_rate_that_fits_is_not_spoken_of_nor_one_that_shrinks_later(caplog: pytest.LogCaptureFixture) -> None:
    assert not any(said(caplog, LearningRateMultiple(), (8.0, 1.0, 1.0, 1 / 4, 1 / 16, 1 / 16, 1 / 16, 1.0), 1e-3))


@pytest.mark.parametrize(("factor", "way"), [(4.0, "small"), (1 / 4, "large")])
def test_a_multiple_of_4_or_a_quarter_is_told(factor: float, way: str, caplog: pytest.LogCaptureFixture) -> None:
    messages = said(caplog, LearningRateMultiple(), (factor, 1.0, 1.0, 1.0), 1e-3)
    assert f"about 4 times too {way}" in messages[3]


def test_during_warm_up_the_rate_is_judged_by_what_the_user_set(caplog: pytest.LogCaptureFixture) -> None:
    messages = []
    for initial in (1e-4, 1e-5):
        optimizer, multiple = sgd(4e-6), LearningRateMultiple()
        optimizer.param_groups[0]["initial_lr"] = initial
        caplog.clear()
        with caplog.at_level(logging.WARNING, "effopd"):
            for factor in (32.0, 1.0, 1.0, 1.0):
                multiple.learn(factor, optimizer)
        messages.append(" ".join(caplog.messages))
    assert messages[0] == ""  # it steps with 1.28e-4
    assert "Your learning rate of 1e-05 is about 13 times too small" in messages[1]


def test_other_processes_are_silent(caplog: pytest.LogCaptureFixture) -> None:
    multiple = LearningRateMultiple()
    for factor in (16.0, 1.0, 1.0, 1.0):
        multiple.learn(factor, sgd(1e-5), is_main_process=False)
    assert multiple.num_searches == 4
    assert not caplog.messages


def test_it_goes_on_from_its_state(caplog: pytest.LogCaptureFixture) -> None:
    multiple = LearningRateMultiple()
    said(caplog, multiple, (16.0, 1.0, 1.0), 1e-5)
    again = LearningRateMultiple(**multiple.state())
    assert said(caplog, again, [2.0], 1e-5) == said(caplog, multiple, [2.0], 1e-5) != [""]
    assert said(caplog, LearningRateMultiple(**multiple.state()), [1.0], 1e-5) == [""]  # it remembers that it spoke


def test_a_step_that_moved_nothing_is_no_search_of_the_learning_rate(tmp_path: Path) -> None:
    trainer = distillation_trainer(tmp_path, max_steps=4, lr_scheduler_type="linear", warmup_steps=1)
    callback = add(trainer)
    trainer.train()
    assert [row["skipped"] for row in records(tmp_path)] == ["no weight differs from the anchor", None, None]
    assert callback._rate.num_searches == 2
