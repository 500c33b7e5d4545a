"""`RemoteSnapshot`: the snapshots of verl's workers, as one object in the driver."""

import time
from collections.abc import Collection
from typing import Any

import torch
from typing_extensions import override

from effopd.extrapolation import Displacement, ExtrapolationConfig, Snapshot


class RemoteSnapshot(Snapshot):
    """A snapshot of weights that verl's workers hold: each call goes to all of them. verl's checkpoints save it.

    Args:
        workers: Worker group of `ExtrapolatingWorker`s with models. The weights as they are become the anchor.
        config: Settings of the extrapolation.

    Attributes:
        parameters: An empty tensor, on the driver's CPU, for each parameter that is extrapolated, by its name.
        last: The displacement that was measured last, or None.
        seconds: Wall time of all calls so far.
    """

    def __init__(self, workers: Any, config: ExtrapolationConfig) -> None:
        self._workers = workers
        self.parameters = {name: torch.empty(0) for name in workers.start_extrapolation(config)[0]}
        self.last: Displacement | None = None
        self.seconds = 0.0

    @override
    def displacement(self) -> Displacement:
        self.last = self._call("displacement")
        return self.last

    @override
    def begin(self, moving: Collection[str] | None = None) -> None:
        self._call("begin", moving)

    @override
    def write_candidate(self, scale: float) -> None:
        self._call("write_candidate", scale)

    @override
    def restore(self) -> None:
        self._call("restore")

    @override
    def commit(self) -> None:
        self._call("commit")

    @override
    def is_finite(self) -> bool:
        return bool(self._call("is_finite"))

    def _call(self, method: str, *args: Any) -> Any:
        started = time.perf_counter()
        results = self._workers.call_snapshot(method, *args)
        self.seconds += time.perf_counter() - started
        return results[0]
