"""Pieces of a study on Ray: all are done, a failed one is named, and the others go on."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from effopd.errors import DivergedError
from effopd.study import training as training_module
from effopd.study.pieces import run_piece, view_piece
from effopd.study.plan import Training, make_plan
from effopd.study.pool import do_pieces, session


class WorkerDiedError(Exception):
    """Stands in for Ray's error of a worker that was killed."""


class OneProcess:
    """What `do_pieces` needs of Ray, in one process: tasks begin when they are waited for, the oldest first."""

    class exceptions:  # noqa: N801
        RayError = WorkerDiedError

    def __init__(self) -> None:
        self.calls: dict[int, Callable[[], Any]] = {}
        self.most = self.started = 0
        self.cancelled: list[int] = []

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 3.0, "GPU": 1.0}

    def remote(self, function: Callable[..., Any]) -> "OneProcess":
        self.function = function
        return self

    def options(self, **settings: Any) -> Any:
        assert settings["num_cpus"] == 1 and settings["runtime_env"]["env_vars"]["OMP_NUM_THREADS"] == "1"
        ray = self

        class Task:
            def remote(self, *arguments: Any) -> int:
                ray.started += 1
                ray.calls[ray.started] = lambda: ray.function(*arguments)
                ray.most = max(ray.most, len(ray.calls))
                return ray.started

        return Task()

    def wait(self, references: list[int], num_returns: int) -> tuple[list[int], list[int]]:
        return references[:1], references[1:]

    def get(self, reference: int) -> Any:
        return self.calls.pop(reference)()

    def cancel(self, reference: int, force: bool) -> None:
        self.cancelled.append(reference)


@pytest.mark.parametrize(("workers", "most"), [(None, 3), (2, 2)])
def test_as_many_at_a_time_as_there_is_room_and_failures_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int | None, most: int
) -> None:
    errors = {201: DivergedError("it diverged"), 202: WorkerDiedError("task failed\nout of memory")}
    done: list[int] = []

    def train(training: Training, directory: Path) -> None:
        assert directory.is_absolute()
        if training.seed in errors:
            raise errors[training.seed]
        done.append(training.seed)

    monkeypatch.setattr(training_module, "do_training", train)
    first = next(make_plan("quick").trainings("style"))
    jobs = [run_piece(replace(first, seed=seed), tmp_path / str(seed)) for seed in range(200, 205)]
    ray, said = OneProcess(), []
    failed = do_pieces(jobs, workers, ray, said.append)
    assert failed == {"opd-201": "it diverged", "opd-202": "out of memory"}
    assert done == [200, 203, 204] and ray.most == most and ray.cancelled == []
    assert said[1] == "2/5: opd-201 failed" and len(said) == 5


def test_an_interruption_cancels_what_is_under_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(training: Training, directory: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(training_module, "do_training", interrupt)
    first = next(make_plan("quick").trainings("style"))
    ray = OneProcess()
    with pytest.raises(KeyboardInterrupt):
        do_pieces([run_piece(replace(first, seed=seed), tmp_path) for seed in range(5)], 2, ray, lambda line: None)
    assert ray.cancelled == [2]


@pytest.mark.slow
def test_views_and_runs_on_ray(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    first = next(make_plan("quick").trainings("style"))
    small = replace(first, steps=2, prompts_per_step=8, save_steps=1, evaluation_problems=16)
    jobs = [(replace(small, seed=seed), tmp_path / str(seed)) for seed in (1, 2)]
    broken = replace(small, seed=3, plan=replace(small.plan, acceleration="warp"))
    said: list[str] = []
    with session(2, None) as ray:
        sizes = {"max_contexts": 4, "max_fresh_contexts": 4, "num_steps": 3}
        views = [view_piece("style", seed, sizes, tmp_path / f"view-{seed}") for seed in (1, 2)]
        assert not do_pieces(views, 2, ray, said.append)
        pieces = [run_piece(*job) for job in [*jobs, (broken, tmp_path / "3")]]
        failed = do_pieces(pieces, 2, ray, said.append)
    assert len({json.loads((piece.arguments[-1] / "linearized.json").read_text())["loss"] for piece in views}) == 2
    assert list(failed) == ["opd-3"] and "warp" in failed["opd-3"]
    for training, directory in jobs:
        assert json.loads((directory / "run.json").read_text())["steps"] == training.steps
        assert len(list(directory.glob("checkpoint-*"))) == 2
    assert len(said) == 5 and sum("failed" in line for line in said) == 1


def test_one_worker_needs_no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    with session(1, None) as ray:
        assert ray is None
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with session(None, None, 1.0) as ray:  # a worker for the one GPU, however many processors there are
        assert ray is None
