"""The cells of a sweep. Each is one model, made from one checkpoint and evaluated on one task with one seed.

A model that several sweeps of the specification ask for is evaluated as one cell, whose result is a row in each.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch

from effopd.checkpoints import Checkpoint, Pair, find_checkpoints, open_pair
from effopd.checks import check_list
from effopd.interventions import make_intervention
from effopd.interventions.realised import held_dtype
from effopd.models.directory import weights_digest
from effopd.models.find import absolute_name, find_model, find_place, model_directory
from effopd.parameters import locate
from effopd.sweeps.spec import Seed, SweepSpec
from effopd.sweeps.sweep_models import Entry, SweepModel, TrainingRun, X, thin

REALISED = ("intended_norm", "update_norm", "relative_error")
"""Columns about the realised update, of the whole model and, with the kind before the name, of each module kind."""

REFERENCES = ("final", "norm_like")
"""Fields of interventions that name a model to take norms from."""

Resident = tuple[str, int, int]
"""The checkpoint that a worker holds: a run's name, the index of its seed, and the index of the checkpoint."""


class Use(NamedTuple):
    """A use of a cell's result: a point of a curve of a sweep.

    Attributes:
        sweep: Name of the sweep.
        kind: Name of the curve.
        value: Value on the sweep's grid.
        x: Quantity that the curve is drawn over.
    """

    sweep: str
    kind: str
    value: float
    x: X


@dataclass(frozen=True)
class Cell:
    """One evaluation.

    Attributes:
        run: Name of the method.
        training_seed: Index of the run among those of the method, from 0.
        checkpoint: Index of the checkpoint in the run, from 0.
        step: Number of optimizer steps taken, if it is known.
        directory: Directory of the checkpoint.
        interventions: Interventions that are applied to the checkpoint, in this order.
        task: Name of the task.
        seed: Random seed for sampling.
        kl: Whether the KL divergence to the teacher is measured.
        uses: Points of curves that the result gives.
        asked: Entry of the specification for the task, if it sets more than the task.
        deciding: Whether the cell is among the first to be evaluated, which show the course of every curve.
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
    asked: Any = None
    deciding: bool = False

    @cached_property
    def key(self) -> str:
        """A digest that no two cells of a specification share, 16 hexadecimal digits."""
        identity = [*self.resident, self.interventions, self.asked or self.task, self.seed, self.kl]
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def resident(self) -> Resident:
        """The checkpoint that a worker has to hold to evaluate the cell."""
        return self.run, self.training_seed, self.checkpoint

    def __str__(self) -> str:
        what = ", ".join(
            f"{kind} {fields}" if fields else kind for entry in self.interventions for kind, fields in entry.items()
        )
        return f"{self.directory} ({what or 'as trained'}) on {self.task}, seed {self.seed}"


class SweepPlan(NamedTuple):
    """All that a sweep will do.

    Attributes:
        cells: Cells in the order of runs and checkpoints.
        identity: Specification, base, digests of the files of base, teacher and models that norms are taken from, and
            checkpoints of every run, as JSON can hold them. Its `dtype` is `stored` where that is no narrower than what
            was asked for.
    """

    cells: list[Cell]
    identity: dict[str, Any]


def plan_cells(spec: SweepSpec) -> SweepPlan:
    """Find the checkpoints, check that they match the base, and list every evaluation.

    Raises:
        ConfigurationError: A sweep cannot be done with these models.
        DataError: A model cannot be read, or does not match the base.
    """
    base = absolute_name(spec.base)
    places: dict[str, Path | str] = {"base": find_place(spec.base)}
    if spec.teacher is not None:  # a missing one is an error now, and not one of each cell
        places["teacher"] = find_model(model_directory(spec.teacher))
    referred = _referred(spec)
    for place in referred.values():
        open_pair(base, place)
        places[f"norms of {place}"] = find_place(place)
    found = {
        name: [tuple(map(_resolved, find_checkpoints(_located(seed, spec.root)))) for seed in run.seeds]
        for name, run in spec.runs.items()
    }
    for name, seeds in found.items():
        ends = [str(seed[-1].directory) for seed in seeds]
        check_list(f"runs: {name}: seeds: last checkpoints", ends)  # the same run may be written as two paths
    cells: list[Cell] = []
    dtypes: set[torch.dtype] = set()
    for name, seeds in found.items():
        for number, checkpoints in enumerate(seeds):
            finals = {each: others[min(number, len(others) - 1)][-1].directory for each, others in found.items()}
            pairs = [open_pair(base, checkpoint.directory) for checkpoint in checkpoints]
            dtypes.update(*(pair.trained.dtypes.values() for pair in pairs))
            layers = _layers(pairs[-1])
            sizes = (spec.max_checkpoints, spec.max_values)
            cells += _cells_of_run(spec, TrainingRun(name, number, checkpoints, layers, *sizes, finals), referred)
    is_wide = all(held_dtype(stored, "float32") == stored for stored in dtypes)
    identity = {
        "spec": spec.to_json() | ({"dtype": "stored"} if is_wide else {}),
        "base": base,
        "files": {name: weights_digest(place) for name, place in places.items()},
        "runs": {name: [[each.identity() for each in seed] for seed in seeds] for name, seeds in found.items()},
    }
    return SweepPlan(cells, json.loads(json.dumps(identity)))


@dataclass
class _Draft:
    """What is known so far of a cell while cells are put together."""

    uses: dict[Use, None] = field(default_factory=dict)
    kl: bool = False
    deciding: bool = False


def _referred(spec: SweepSpec) -> dict[Any, str]:
    """Find the models that fields of interventions name to take norms from: where they are, by their names there."""
    fields = (field for sweep in spec.sweeps for field in (getattr(sweep, "fields", None) or {}).items())
    names = {value for name, value in fields if name in REFERENCES and isinstance(value, str)}
    under_root = {name: Path(spec.root or "", name) for name in names}
    return {name: absolute_name(path if path.exists() else name) for name, path in under_root.items()}


def _cells_of_run(spec: SweepSpec, run: TrainingRun, referred: Mapping[Any, str]) -> list[Cell]:
    drafts: dict[tuple[int, str], _Draft] = {}
    for sweep in spec.sweeps:
        if sweep.runs and run.name not in sweep.runs:
            continue
        models = [
            model._replace(interventions=tuple(_located_in(entry, referred) for entry in model.interventions))
            for model in sweep.plan(run)
        ]
        deciding = _ends_and_middles(models) if run.seed == 0 else []
        for model in models:
            for entry in model.interventions:
                for kind, fields in entry.items():
                    make_intervention(kind, fields)
            draft = drafts.setdefault((model.checkpoint, json.dumps(model.interventions)), _Draft())
            draft.uses[Use(sweep.name, model.kind, model.value, model.x)] = None
            draft.kl |= sweep.measures_kl and spec.teacher is not None
            draft.deciding |= model in deciding
    cells = []
    for (index, interventions), draft in sorted(drafts.items(), key=lambda item: item[0][0]):
        checkpoint = run.checkpoints[index]
        made = tuple(json.loads(interventions))
        for task in spec.tasks:
            asked = None if task.to_json() == task.name else task.to_json()
            for seed in spec.seeds:
                where = (run.name, run.seed, index, checkpoint.step, checkpoint.directory)
                first = draft.deciding and seed == spec.seeds[0]
                cells.append(Cell(*where, made, task.name, seed, draft.kl, tuple(draft.uses), asked, first))
    return cells


def run_places(spec: SweepSpec) -> dict[str, str | list[str]]:
    """Return where each run is, by its name; those of a method with several seeds are numbered: `OPD-0`, `OPD-1`."""
    return {
        name if len(run.seeds) == 1 else f"{name}-{number}": _located(seed, spec.root)
        for name, run in spec.runs.items()
        for number, seed in enumerate(run.seeds)
    }


def _located_in(entry: Entry, referred: Mapping[Any, str]) -> Entry:
    """Write where the models are that an intervention takes norms from, for workers in other directories."""

    def located(field: str, value: Any) -> Any:
        return referred.get(value, value) if field in REFERENCES and isinstance(value, str) else value

    return {kind: {field: located(field, value) for field, value in fields.items()} for kind, fields in entry.items()}


def _ends_and_middles(models: list[SweepModel]) -> list[SweepModel]:
    """Choose of every curve the first model, the middle one and the last one. Lines for reference have just one."""
    curves: dict[str, list[SweepModel]] = {}
    for model in models:
        curves.setdefault(model.kind, []).append(model)
    return [each for curve in curves.values() for each in thin(tuple(curve), 3)]


def _located(seed: Seed, root: str | None) -> str | list[str]:
    if isinstance(seed, str):
        under = Path(root or "", seed)
        return str(under) if root or under.exists() else seed  # otherwise a hub name
    return [str(Path(root or "", model)) for model in seed]


def _resolved(checkpoint: Checkpoint) -> Checkpoint:
    """Make the path absolute, for workers in other directories, and so that one cell never has two keys."""
    return checkpoint._replace(directory=checkpoint.directory.resolve())


def _layers(pair: Pair) -> tuple[int, ...]:
    """List the indices of a model's layers."""
    return tuple(sorted({layer for name in pair.names if (layer := locate(name).layer) is not None}))
