"""The models that a sweep evaluates: checkpoints of a training run, with interventions applied to them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from effopd.checkpoints import Checkpoint

Entry = dict[str, dict[str, Any]]
"""An intervention, written as in a plan of `effopd intervene`: `{kind: {field: value}}`."""

X = Literal["value", "update_norm"]
BASE: Entry = {"scale": {"alpha": 0.0}}


@dataclass(frozen=True)
class TrainingRun:
    """One run of training, with one seed.

    Attributes:
        name: Name of the method, which runs with several seeds share.
        seed: Index of this run among those of the method, from 0.
        checkpoints: Checkpoints in the order of training.
        layers: Indices of the model's layers.
        max_checkpoints: Largest number of checkpoints that a sweep over training takes; None for all.
        max_values: Largest number of values that a grid keeps; None for all.
        finals: Directory of the last checkpoint of each method's run of the same index, or its last one if it has fewer
            seeds, by name of the method.
    """

    name: str
    seed: int
    checkpoints: tuple[Checkpoint, ...]
    layers: tuple[int, ...]
    max_checkpoints: int | None
    max_values: int | None
    finals: Mapping[str, Path]

    @property
    def final(self) -> int:
        """Index of the last checkpoint."""
        return len(self.checkpoints) - 1

    @property
    def over_training(self) -> tuple[int, ...]:
        """Indices of the checkpoints that a sweep over training takes."""
        return thin(tuple(range(len(self.checkpoints))), self.max_checkpoints)

    def time(self, checkpoint: int) -> float:
        """Return the optimizer step of a checkpoint, or its number from 1 if any step of the run is unknown."""
        steps = [found.step for found in self.checkpoints]
        step = steps[checkpoint]
        return float(checkpoint + 1 if step is None or None in steps else step)

    def early(self, fraction: float) -> int:
        """Return the index of the checkpoint that is nearest to a fraction of the training."""
        goal = fraction * self.time(self.final)
        return min(range(len(self.checkpoints)), key=lambda index: abs(self.time(index) - goal))


class SweepModel(NamedTuple):
    """A model that a sweep evaluates, as a point of one of its curves.

    Attributes:
        checkpoint: Index of the checkpoint in the run.
        interventions: Interventions that are applied to the checkpoint, in this order.
        kind: Name of the curve.
        value: Value on the sweep's grid.
        x: Quantity that the curve is drawn over.
    """

    checkpoint: int
    interventions: tuple[Entry, ...]
    kind: str
    value: float
    x: X = "value"


def thin(entries: tuple[Any, ...], most: int | None) -> tuple[Any, ...]:
    """Keep at most so many entries, evenly spaced, the first and the last among them; only the last if `most` is 1."""
    if most is None or len(entries) <= most:
        return entries
    if most == 1:
        return entries[-1:]
    return tuple(entries[round(index * (len(entries) - 1) / (most - 1))] for index in range(most))
