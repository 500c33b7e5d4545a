"""Two workers' bookkeeping: what is done again, what is not, and which CPU seconds count."""

import json
import time
from concurrent.futures import Future
from dataclasses import dataclass

import pytest
import training_runs
from training_runs import CPUClock, do_runs, read_records


@dataclass(frozen=True)
class Tiny:
    name: str
    expected_cost: float
    setting: int = 0


class AtOnce:
    """Does what is submitted at once, in this process, and notes the order."""

    def __init__(self):
        self.names = []

    def submit(self, function, do_run, run, *arguments):
        self.names.append(run.name)
        future = Future()
        future.set_result(function(do_run, run, *arguments))
        return future


def outcome(run, directory):
    if run.setting < 0:
        raise ValueError("this run cannot be done")
    spent = {"cpu_seconds_to_target": 2.0}
    return {"run": vars(run), "steps_to_target": None, "final_accuracy": 0.5, "spent": spent}


def test_finished_runs_are_not_done_again_and_the_shortest_comes_first(tmp_path, capsys):
    runs = [Tiny("world/long", 3.0), Tiny("world/short", 1.0), Tiny("world/middle", 2.0)]
    executor = AtOnce()
    do_runs(executor, outcome, runs[:1], tmp_path, tmp_path / "work", 1.0)
    do_runs(executor, outcome, runs, tmp_path, tmp_path / "work", lambda: 60.0)
    assert executor.names == ["world/long", "world/short", "world/middle"]
    assert "Estimate: 1.5 min with 2 workers." in capsys.readouterr().out  # (1 + 2) * 60 s on two workers
    assert read_records(runs, tmp_path).keys() == {run.name for run in runs}
    assert do_runs(executor, outcome, runs, tmp_path, tmp_path / "work", pytest.fail) is None


def test_a_failure_does_not_stop_the_others_and_is_tried_again(tmp_path, capsys):
    runs = [Tiny("bad", 1.0, setting=-1), Tiny("good", 2.0)]
    with pytest.raises(SystemExit, match="1 runs failed: bad"):
        do_runs(AtOnce(), outcome, runs, tmp_path, tmp_path / "work", 1.0)
    assert "this run cannot be done" in capsys.readouterr().err
    assert [path.name for path in tmp_path.glob("*.json")] == ["good.json"]
    again = AtOnce()
    with pytest.raises(SystemExit):
        do_runs(again, outcome, runs, tmp_path, tmp_path / "work", 1.0)
    assert again.names == ["bad"]


def test_a_record_of_other_settings_is_refused(tmp_path):
    (tmp_path / "run.json").write_text(json.dumps({"run": {"name": "run", "expected_cost": 1.0, "setting": 1}}))
    with pytest.raises(SystemExit, match="is of other settings"):
        read_records([Tiny("run", 1.0, setting=2)], tmp_path)


def test_evaluation_is_counted_apart(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "process_time", lambda: now[0])
    clock, seen = CPUClock(), []

    class Trainer:
        def evaluate(self):
            now[0] += 10.0

        def _inner_training_loop(self):
            now[0] += 1.0
            self.evaluate()
            seen.append(clock.now())
            with clock.apart():
                now[0] += 5.0
            now[0] += 2.0
            raise ArithmeticError

    trainer = Trainer()
    clock.watch(trainer)
    with pytest.raises(ArithmeticError):
        trainer._inner_training_loop()
    assert (seen, clock.seconds, clock.evaluation_seconds) == ([1.0], 3.0, 15.0)


def test_how_a_run_ended():
    spent = {"cpu_seconds_to_target": 7.0}
    record = {"steps_to_target": None, "final_accuracy": None, "spent": spent, "diverged": True}
    assert training_runs.describe(record) == "diverged before any evaluation, 7 s of CPU"
    arrived = record | {"steps_to_target": 4, "rollouts_to_target": 1024, "cpu_seconds_to_target": 3.0}
    assert training_runs.describe(arrived) == "4 steps, 1,024 rollouts, 3 s of CPU"
