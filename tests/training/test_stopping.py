"""When runs to a target evaluate, and where they stop."""

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
from test_trainer import opd_trainer
from tiny import contains_answer
from transformers import TrainerCallback, TrainerControl, TrainerState

from effopd.errors import ConfigurationError
from effopd.extrapolation import EffOPDCallback
from effopd.extrapolation.search import Score
from effopd.training.metrics import MetricsCallback
from effopd.training.stopping import EvaluateNearTarget, StopAtRollouts, StopWithoutImprovement, is_evaluation_step


class Recorder(TrainerCallback):
    """Steps that were evaluated."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.steps.append(state.global_step)


def evaluated_steps(trainer: Any, *callbacks: TrainerCallback) -> list[int]:
    recorder = Recorder()
    for callback in (*callbacks, recorder):
        trainer.add_callback(callback)
    trainer.train()
    return recorder.steps


def off_the_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("effopd.training.stopping.is_evaluation_step", lambda step: False)


def reward_of(value: float) -> Any:
    return lambda completions, **kwargs: [value] * len(completions)


def test_the_grid_is_geometric() -> None:
    grid = [step for step in range(1, 1025) if is_evaluation_step(step)]
    assert grid[:18] == [*range(1, 19)]
    assert {2**n for n in range(11)} <= set(grid)
    assert all(b - a <= max(1, a / 16) for a, b in itertools.pairwise(grid))
    assert len([step for step in grid if 512 < step <= 1024]) == 16
    assert not is_evaluation_step(0)


def test_grid_steps_are_evaluated_though_the_strategy_is_no(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("effopd.training.stopping.is_evaluation_step", lambda step: step in (2, 5))
    trainer = opd_trainer(tmp_path, evaluation=True)
    assert trainer.args.eval_strategy == "no"
    assert evaluated_steps(trainer, EvaluateNearTarget(trainer, 2.0, contains_answer)) == [2, 5]


@pytest.mark.parametrize(("reward", "evaluated"), [(0.92, [1, 2, 3]), (0.90, [])])
def test_rollouts_near_the_target_ask_for_an_evaluation(
    reward: float, evaluated: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    off_the_grid(monkeypatch)
    trainer = opd_trainer(tmp_path, evaluation=True, max_steps=3)
    assert evaluated_steps(trainer, EvaluateNearTarget(trainer, 0.95, reward_of(reward))) == evaluated


def test_the_rewards_of_as_many_recent_steps_are_averaged_as_have_enough_rollouts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    off_the_grid(monkeypatch)
    monkeypatch.setattr("effopd.training.stopping.RECENT_ROLLOUTS", 16)  # two steps of eight
    rewards = iter((1.0, 0.9, 0.9, 0.95, 0.8))

    def reward(completions: list[str], **kwargs: Any) -> list[float]:
        return [next(rewards)] * len(completions)

    trainer = opd_trainer(tmp_path, evaluation=True, max_steps=5)
    # The means are 1, 0.95, 0.9, 0.925 and 0.875, and 0.91 is near enough.
    assert evaluated_steps(trainer, EvaluateNearTarget(trainer, 0.95, reward)) == [1, 2, 4]


def test_the_rollouts_are_scored_as_trl_decodes_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, str, str]] = []

    def reward(prompts: list[str], completions: list[str], answer: list[str], **kwargs: Any) -> list[float]:
        assert all(";" not in completion for completion in completions)  # the end-of-sequence token
        seen.extend(zip(map(len, completions), prompts, answer, strict=True))
        return [0.0] * len(completions)

    trainer = opd_trainer(tmp_path, evaluation=True, max_steps=2, gradient_accumulation_steps=2)
    evaluated_steps(trainer, EvaluateNearTarget(trainer, 2.0, reward))
    assert len(seen) == 2 * 8 * 2  # every rollout of both steps, all accumulated batches
    for length, prompt, answer in seen:
        assert length <= 6
        assert int(answer) == (int(prompt[0]) + int(prompt[2])) % 10


@pytest.mark.parametrize(("values", "evaluated"), [((0.0, 1.0), [2]), ((1.0, 0.0), [])])
def test_accepted_extrapolations_are_evaluated(
    values: tuple[float, float], evaluated: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    off_the_grid(monkeypatch)
    scores = iter(values)
    monkeypatch.setattr("effopd.extrapolation.callback.validate", lambda *args: Score(next(scores)))
    trainer = opd_trainer(tmp_path, evaluation=True, max_steps=3)
    effopd = EffOPDCallback(trainer, contains_answer, schedule=[2], scales=[1.0], num_prompts=4)
    assert evaluated_steps(trainer, effopd, EvaluateNearTarget(trainer, 2.0, contains_answer)) == evaluated


def test_without_anything_to_evaluate_on_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="evaluation_dataset_name"):
        trainer = opd_trainer(tmp_path)
        EvaluateNearTarget(trainer, 0.95, contains_answer)


@pytest.mark.parametrize("limit", [20, 24])
def test_training_stops_at_the_limit_of_rollouts_and_evaluates_there(limit: int, tmp_path: Path) -> None:
    trainer = opd_trainer(tmp_path, evaluation=True, max_steps=50)
    metrics = MetricsCallback(trainer, None)
    assert evaluated_steps(trainer, metrics, StopAtRollouts(metrics, limit)) == [3]  # 8 a step
    assert trainer.state.global_step == 3
    assert metrics.row is not None
    assert metrics.row["rollouts"] == 24
    assert metrics.row["accuracy"] is not None


def test_rollouts_of_validation_count_towards_the_limit(tmp_path: Path) -> None:
    trainer = opd_trainer(tmp_path, evaluation=True, max_steps=50)
    effopd = EffOPDCallback(trainer, contains_answer, schedule=[1], scales=[1.0], num_prompts=12)
    metrics = MetricsCallback(trainer, effopd)
    evaluated_steps(trainer, effopd, metrics, StopAtRollouts(metrics, 20))
    assert trainer.state.global_step == 1


@pytest.mark.parametrize(
    ("accuracies", "stops"),
    [((0.5, 0.4), False), ((0.5, 0.5, 0.4), True), ((0.5, 0.4, 0.6), False), ((0.5, math.nan, 0.4), True)],
)
def test_training_stops_after_two_evaluations_that_are_no_better(accuracies: tuple[float, ...], stops: bool) -> None:
    log = [{"step": step, "eval_accuracy": accuracy} for step, accuracy in enumerate(accuracies)]
    state, control = TrainerState(log_history=[*log, {"step": 9, "loss": 1.0}]), TrainerControl()
    StopWithoutImprovement(2).on_evaluate(None, state, control)  # type: ignore[arg-type]
    assert control.should_training_stop == stops
