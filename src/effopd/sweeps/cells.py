"""The cells of a sweep: one model, made of one checkpoint, evaluated on one task with one seed.

A model that several sweeps of the specification want is one cell, and its result a row in each.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from effopd.checkpoints import Checkpoint, find_checkpoints, open_pair
from effopd.checkpoints.model import weight_files
from effopd.files import files_digest
from effopd.interventions import make_intervention
from effopd.models.find import absolute_name, find_model, model_directory
from effopd.parameters import locate
from effopd.sweeps.checks import listed
from effopd.sweeps.points import Entry, TrainingRun, X
from effopd.sweeps.spec import Seed, SweepSpec

Resident = tuple[str, int, int]
"""What a worker holds: a run's name, its seed and a checkpoint's index."""


class Use(NamedTuple):
    """A place of a cell's result: which point of which curve of which sweep it is."""

    sweep: str
    kind: str
    value: float
    x: X


@dataclass(frozen=True)
class Cell:
    """One evaluation.

    Attributes:
        run: Name of the method.
        training_seed: Which of its runs, from 0.
        checkpoint: Index of the checkpoint, from 0.
        step: Optimizer steps taken, if known.
        directory: The checkpoint.
        interventions: Applied to it.
        task: Name of the task.
        seed: Of the sampling.
        kl: Whether the KL divergence to the teacher is measured.
        uses: Where the result goes.
    """

    run: str
    training_seed: int
    checkpoint: int
    step: int | None
    directory: Path
    interventions: tuple[Entry, ...]
    task: str
    seed: int
    kl: bool
    uses: tuple[Use, ...]

    @cached_property
    def key(self) -> str:
        """What tells it from all others of the specification, 16 hexadecimal digits."""
        identity = [*self.resident, self.interventions, self.task, self.seed, self.kl]
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def resident(self) -> Resident:
        """The checkpoint that a worker has to hold for it."""
        return self.run, self.training_seed, self.checkpoint

    def __str__(self) -> str:
        """For messages."""
        what = ", ".join(
            f"{kind} {fields}" if fields else kind for entry in self.interventions for kind, fields in entry.items()
        )
        return f"{self.directory} ({what or 'as trained'}) on {self.task}, seed {self.seed}"


class Plan(NamedTuple):
    """All that a sweep will do.

    Attributes:
        cells: In the order of runs and checkpoints.
        identity: What the cells are made of, as JSON.
    """

    cells: list[Cell]
    identity: dict[str, Any]


def plan_cells(spec: SweepSpec) -> Plan:
    """Find the checkpoints, check that they match the base, and list every evaluation.

    Raises:
        ConfigurationError: A sweep cannot be done with these models.
        DataError: A model cannot be read, or does not match the base.
    """
    base = absolute_name(spec.base)
    if spec.teacher is not None:
        find_model(model_directory(spec.teacher))  # one that is not there is an error now, not one of each cell
    found = {
        name: [tuple(map(_resolved, find_checkpoints(_located(seed, spec.root)))) for seed in run.seeds]
        for name, run in spec.runs.items()
    }
    for name, seeds in found.items():
        ends = [str(seed[-1].directory) for seed in seeds]
        listed(f"runs: {name}: seeds: last checkpoints", ends)  # however their paths are written
    finals = {name: seeds[0][-1].directory for name, seeds in found.items()}
    cells: list[Cell] = []
    for name, seeds in found.items():
        for number, checkpoints in enumerate(seeds):
            layers = [_layers(base, checkpoint.directory) for checkpoint in checkpoints][-1]
            sizes = (spec.max_checkpoints, spec.max_values)
            cells += _cells_of_run(spec, TrainingRun(name, number, checkpoints, layers, *sizes, finals))
    identity = {
        "spec": spec.to_json(),
        "base": base,
        "runs": {name: [[_describe(each) for each in seed] for seed in seeds] for name, seeds in found.items()},
    }
    return Plan(cells, json.loads(json.dumps(identity)))


@dataclass
class _Draft:
    """A cell that is being put together."""

    uses: dict[Use, None] = field(default_factory=dict)
    kl: bool = False


def _cells_of_run(spec: SweepSpec, run: TrainingRun) -> list[Cell]:
    drafts: dict[tuple[int, str], _Draft] = {}
    for sweep in spec.sweeps:
        if sweep.runs and run.name not in sweep.runs:
            continue
        for point in sweep.plan(run):
            for entry in point.interventions:
                for kind, fields in entry.items():
                    make_intervention(kind, fields)
            draft = drafts.setdefault((point.checkpoint, json.dumps(point.interventions)), _Draft())
            draft.uses[Use(sweep.name, point.kind, point.value, point.x)] = None
            draft.kl |= sweep.measures_kl and spec.teacher is not None
    cells = []
    for (index, interventions), draft in sorted(drafts.items(), key=lambda item: item[0][0]):
        checkpoint = run.checkpoints[index]
        made = tuple(json.loads(interventions))
        for task in spec.tasks:
            for seed in spec.seeds:
                where = (run.name, run.seed, index, checkpoint.step, checkpoint.directory)
                cells.append(Cell(*where, made, task, seed, draft.kl, tuple(draft.uses)))
    return cells


def _located(seed: Seed, root: str | None) -> str | list[str]:
    if isinstance(seed, str):
        under = Path(root or "", seed)
        return str(under) if root or under.exists() else seed  # otherwise a hub name
    return [str(Path(root or "", model)) for model in seed]


def _resolved(checkpoint: Checkpoint) -> Checkpoint:
    """By its absolute path: workers may run elsewhere, and however the path was written, its cells are the same."""
    return checkpoint._replace(directory=checkpoint.directory.resolve())


def _layers(base: str, directory: Path) -> tuple[int, ...]:
    """Numbers of the layers of a model, which has to match the base."""
    names = open_pair(base, directory).names
    return tuple(sorted({layer for name in names if (layer := locate(name).layer) is not None}))


def _describe(checkpoint: Checkpoint) -> dict[str, Any]:
    """A checkpoint with a digest of its files, so that another in its place is noticed."""
    files = files_digest(weight_files(checkpoint.directory))
    return {"step": checkpoint.step, "directory": str(checkpoint.directory), "files": files}


MAX_ATTEMPTS = 2
MAX_LOSSES = 3


class CellQueue:
    """Cells to be done, each handed out until it is done, has failed twice or has cost three workers.

    Args:
        cells: The cells.
    """

    def __init__(self, cells: Iterable[Cell]) -> None:
        self._waiting: dict[Resident, list[Cell]] = {}
        for cell in cells:
            self._waiting.setdefault(cell.resident, []).append(cell)
        self._failures: Counter[str] = Counter()
        self._losses: Counter[str] = Counter()

    def __len__(self) -> int:
        return sum(len(cells) for cells in self._waiting.values())

    def take(self, resident: Resident | None, others: Iterable[Resident | None] = ()) -> Cell | None:
        """The next cell for a worker.

        Args:
            resident: The checkpoint that it holds: one of its cells, if there is any. Otherwise one of a checkpoint
                that no worker holds; otherwise of the one that most is left of.
            others: What the other workers hold.

        Returns:
            The cell; None if none is waiting.
        """
        held = set(others)
        if resident not in self._waiting:
            free = [each for each in self._waiting if each not in held]
            resident = free[0] if free else max(self._waiting, key=lambda each: len(self._waiting[each]), default=None)
        if resident is None:
            return None
        cells = self._waiting[resident]
        cell = cells.pop(0)
        if not cells:
            del self._waiting[resident]
        return cell

    def failed(self, cell: Cell) -> bool:
        """Note that a cell raised an error; whether it is put back."""
        self._failures[cell.key] += 1
        return self._put_back(cell, self._failures[cell.key] < MAX_ATTEMPTS)

    def lost(self, cell: Cell) -> bool:
        """Note that a worker died over a cell; whether it is put back."""
        self._losses[cell.key] += 1
        return self._put_back(cell, self._losses[cell.key] < MAX_LOSSES)

    def attempt(self, cell: Cell) -> int:
        """Which attempt at a cell is under way, from 1."""
        return self._failures[cell.key] + self._losses[cell.key] + 1

    def _put_back(self, cell: Cell, again: bool) -> bool:
        if again:
            self._waiting.setdefault(cell.resident, []).append(cell)
        return again
