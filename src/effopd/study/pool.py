"""Training runs side by side: one after the other in this process, or several at a time on Ray, as a sweep's cells."""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from effopd.errors import EffOPDError
from effopd.study.plan import Training
from effopd.sweeps import connected, import_ray, num_workers

Jobs = Sequence[tuple[Training, Path]]


@contextlib.contextmanager
def session(workers: int | None, address: str | None) -> Iterator[Any]:
    """Keep one session of Ray for training and sweeps until the block ends; yield the module, or None without Ray.

    Args:
        workers: Number of workers; None takes one for each processor of this machine, or as the cluster has room for.
        address: Address of a running cluster; None starts a session here if there is to be more than one worker.

    Raises:
        ConfigurationError: There is no cluster at the address.
        UnsupportedError: Ray is needed and not installed.
    """
    here = num_workers(workers, address, 0.0)
    if here == 1 and address is None:
        yield None
        return
    ray = import_ray()
    with connected(ray, here, address):
        yield ray


def do_trainings(jobs: Jobs, workers: int | None, ray: Any, say: Callable[[str], None]) -> dict[str, str]:
    """Do training runs, or what is left of them.

    Args:
        jobs: The runs, each with its directory; on a cluster, one that all nodes share.
        workers: Number of runs at a time; None takes as many as Ray has processors.
        ray: The module, from `session`; None trains in this process.
        say: Function that shows a line of progress.

    Returns:
        The error of each run that failed, by its name. The others are finished.
    """
    failed: dict[str, str] = {}
    done = _in_process(jobs) if ray is None else _on_ray(jobs, workers, ray)
    for finished, (training, error) in enumerate(done, start=1):
        if error is not None:
            failed[training.name] = error
        say(f"{training.world}: {finished}/{len(jobs)} runs; {training.name} {'failed' if error else 'is finished'}")
    return failed


def _in_process(jobs: Jobs) -> Iterator[tuple[Training, str | None]]:
    for training, directory in jobs:
        yield training, _attempt(training, directory)


def _on_ray(jobs: Jobs, workers: int | None, ray: Any) -> Iterator[tuple[Training, str | None]]:
    environment = {"env_vars": {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}}
    start = ray.remote(_attempt_alone).options(num_cpus=1, max_retries=1, runtime_env=environment).remote
    most = workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
    waiting = list(jobs)
    calls: dict[Any, Training] = {}
    try:
        while waiting or calls:
            while waiting and len(calls) < most:
                training, directory = waiting.pop(0)
                calls[start(training, directory.resolve())] = training
            (reference,), _ = ray.wait(list(calls), num_returns=1)
            training = calls.pop(reference)
            try:
                yield training, ray.get(reference)
            except ray.exceptions.RayError as error:
                yield training, str(error).strip().splitlines()[-1]
    finally:
        for reference in calls:
            ray.cancel(reference, force=True)


def _attempt(training: Training, directory: Path) -> str | None:
    from effopd.study.training import do_training  # imported here, so that only workers import TRL

    try:
        do_training(training, directory)
    except EffOPDError as error:
        return str(error)
    return None


def _attempt_alone(training: Training, directory: Path) -> str | None:
    import torch

    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    return _attempt(training, directory)
