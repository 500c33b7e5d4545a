"""Pieces of a study: one after the other in this process, or several at a time on Ray, as the cells of a sweep."""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from effopd.errors import EffOPDError
from effopd.sweeps import connected, import_ray, num_workers


class Piece(NamedTuple):
    """A piece of a study that depends on no other, and does only what is left of it.

    Attributes:
        name: Name that messages call it.
        do: Function that does it; one that can be imported, so that a worker can be sent it.
        arguments: What the function is called with.
    """

    name: str
    do: Callable[..., None]
    arguments: tuple[Any, ...]


@contextlib.contextmanager
def session(workers: int | None, address: str | None, gpus_per_worker: float = 0.0) -> Iterator[Any]:
    """Keep one session of Ray for training and sweeps until the block ends; yield the module, or None without Ray.

    Args:
        workers: Number of workers; None takes one for each processor of this machine, or for each `gpus_per_worker` of
            its GPUs, or as the cluster has room for.
        address: Address of a running cluster; None starts a session here if there is to be more than one worker.
        gpus_per_worker: Number of GPUs, or a fraction of one, for each worker.

    Raises:
        ConfigurationError: There is no cluster at the address.
        UnsupportedError: Ray is needed and not installed.
    """
    here = num_workers(workers, address, gpus_per_worker)
    if here == 1 and address is None:
        yield None
        return
    ray = import_ray()
    with connected(ray, here, address):
        yield ray


def do_pieces(pieces: Sequence[Piece], workers: int | None, ray: Any, say: Callable[[str], None]) -> dict[str, str]:
    """Do pieces, or what is left of them.

    Args:
        pieces: The pieces. On a cluster, the directories that they write to are shared by all nodes.
        workers: Number of pieces at a time; None takes as many as Ray has processors.
        ray: The module, from `session`; None does them in this process.
        say: Function that shows a line of progress.

    Returns:
        The error of each piece that failed, by its name. The others are finished.
    """
    failed: dict[str, str] = {}
    done = _in_process(pieces) if ray is None else _on_ray(pieces, workers, ray)
    for finished, (name, error) in enumerate(done, start=1):
        if error is not None:
            failed[name] = error
        say(f"{finished}/{len(pieces)}: {name} {'failed' if error else 'is finished'}")
    return failed


def _in_process(pieces: Sequence[Piece]) -> Iterator[tuple[str, str | None]]:
    for piece in pieces:
        yield piece.name, _attempt(piece)


def _on_ray(pieces: Sequence[Piece], workers: int | None, ray: Any) -> Iterator[tuple[str, str | None]]:
    environment = {"env_vars": {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}}
    start = ray.remote(_attempt_alone).options(num_cpus=1, max_retries=1, runtime_env=environment).remote
    most = workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
    waiting = list(pieces)
    calls: dict[Any, str] = {}
    try:
        while waiting or calls:
            while waiting and len(calls) < most:
                piece = waiting.pop(0)
                calls[start(piece)] = piece.name
            (reference,), _ = ray.wait(list(calls), num_returns=1)
            name = calls.pop(reference)
            try:
                yield name, ray.get(reference)
            except ray.exceptions.RayError as error:
                yield name, str(error).strip().splitlines()[-1]
    finally:
        for reference in calls:
            ray.cancel(reference, force=True)


def _attempt(piece: Piece) -> str | None:
    try:
        piece.do(*piece.arguments)
    except EffOPDError as error:
        return str(error)
    return None


def _attempt_alone(piece: Piece) -> str | None:
    import torch

    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    return _attempt(piece)
