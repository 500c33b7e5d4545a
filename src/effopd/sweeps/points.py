"""The models of a sweep: checkpoints of a training run, and what is done to them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from effopd.checkpoints import Checkpoint
from effopd.sweeps.checks import thin

Entry = dict[str, dict[str, Any]]
"""An intervention as in a plan of `effopd intervene`: `{kind: {field: value}}`."""

X = Literal["value", "update_norm"]
BASE: Entry = {"scale": {"alpha": 0.0}}


@dataclass(frozen=True)
class TrainingRun:
    """One run of training, of one seed.

    Attributes:
        name: Of the method; runs of several seeds share it.
        seed: Which of the method's runs, from 0.
        checkpoints: In the order of training.
        layers: Numbers of the layers.
        max_checkpoints: How many checkpoints at most a sweep over training takes.
        max_values: How many values at most a grid keeps.
        finals: The last checkpoint of each method's first seed, by name.
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
        """Its step, or its number from 1 where a step of the run is not known."""
        steps = [found.step for found in self.checkpoints]
        step = steps[checkpoint]
        return float(checkpoint + 1 if step is None or None in steps else step)

    def early(self, fraction: float) -> int:
        """The checkpoint nearest to a fraction of the training."""
        goal = fraction * self.time(self.final)
        return min(range(len(self.checkpoints)), key=lambda index: abs(self.time(index) - goal))


class Point(NamedTuple):
    """A model that a sweep evaluates.

    Attributes:
        checkpoint: Index in the run.
        interventions: Applied to it, the first one first.
        kind: Which curve of the sweep it is a point of.
        value: Where on the grid.
        x: What the curve is drawn over.
    """

    checkpoint: int
    interventions: tuple[Entry, ...]
    kind: str
    value: float
    x: X = "value"
