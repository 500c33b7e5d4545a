"""The plan of `grid.py`, read from `grid.yaml`: the runs of each stage, and what they are expected to take."""

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from run_records import Record

from effopd.errors import ConfigurationError, DataError
from effopd.files import load_yaml

PLAN = Path(__file__).with_name("grid.yaml")
Cell = tuple[float, int]
"""A learning rate and a number of prompts per step."""


@dataclass(frozen=True)
class Run:
    """One training run: everything that decides its outcome but the versions of the packages."""

    world: str
    method: str
    learning_rate: float
    prompts_per_step: int
    seed: int
    target_accuracy: float
    limit: int
    acceleration: str
    extrapolation: dict[str, Any] | None
    optim: str
    evaluation_problems: int
    final_problems: int
    after_target: dict[str, int]
    fall: float
    expected_cost: float = field(default=0.0, compare=False)  # CPU seconds

    def recorded(self) -> Record:
        """The settings as a record holds them."""
        return {name: value for name, value in asdict(self).items() if name != "expected_cost"}

    @property
    def name(self) -> str:
        return f"{self.world}/{self.method}-lr{self.learning_rate:g}-b{self.prompts_per_step}-s{self.seed}"


def target_accuracy(world: str) -> float:
    """Target of a world by its card: nine tenths of the way from the base to the teacher."""
    from effopd.world import card

    contents = card(world)
    base, teacher = (contents[model]["sampled_accuracy"]["accuracy"] for model in ("base", "teacher"))
    return round(base + 0.9 * (teacher - base), 2)


class Plan:
    """What the benchmark consists of.

    Args:
        contents: Contents of `grid.yaml`.

    Attributes:
        stages: Names of the stages, in their order.
    """

    def __init__(self, contents: Mapping[str, Any]) -> None:
        self.settings = contents["settings"]
        self.methods: dict[str, dict[str, Any]] = contents["methods"]
        self.worlds: dict[str, dict[str, Any]] = contents["worlds"]
        self.goals = contents["goals"]
        self.stages = tuple(contents["stages"])
        self._stages = contents["stages"]
        self._estimate = contents["estimate"]
        self._targets: dict[str, float] = {}

    @classmethod
    def read(cls, path: Path = PLAN, *, quick: bool = False) -> "Plan":
        """Read a plan from its file."""
        contents = load_yaml(path.read_text(encoding="utf-8"))
        return cls(contents | contents["quick"] if quick else contents)

    def worlds_of(self, stage: str) -> list[str]:
        """Worlds of a stage."""
        return list(self._stages[stage]["worlds"])

    def runs(self, stage: str, world: str, records: Collection[Record]) -> list[Run] | None:
        """Runs of one stage in one world.

        Args:
            stage: Name of the stage.
            world: Name of the world.
            records: Records so far, of any runs.

        Returns:
            The runs; None if they depend on the outcome of others that are not finished.
        """
        entry = self._stages[stage]
        if world not in entry["worlds"]:
            return []
        runs = []
        for method in entry["methods"]:
            cells = self._cells(entry, method, world, records)
            if cells is None:
                return None
            runs += [self.run(world, method, cell, seed) for cell in cells for seed in entry["seeds"]]
        return runs

    def all_runs(self, worlds: Iterable[str], records: Collection[Record]) -> tuple[dict[str, Run], list[str]]:
        """Runs of all stages by name, and what cannot be planned yet, as `stage in world`."""
        runs: dict[str, Run] = {}
        unknown = []
        for world in worlds:
            for stage in self.stages:
                found = self.runs(stage, world, records)
                if found is None:
                    unknown.append(f"{stage} in {world}")
                else:
                    runs |= {run.name: run for run in found}
        return runs, unknown

    def grid(self, method: str, world: str) -> list[Cell]:
        """Cells of a method that are planned from the start, without those that others decide."""
        cells: dict[Cell, None] = {}
        for entry in self._stages.values():
            if method in entry["methods"] and world in entry["worlds"] and "best" not in entry:
                cells |= dict.fromkeys(self._cells(entry, method, world, ()) or ())
        return list(cells)

    def default(self, method: str) -> Cell:
        """The cell of a user who tunes nothing."""
        rate, prompts = self.methods[method]["default"]
        return float(rate), prompts

    def run(self, world: str, method: str, cell: Cell, seed: int) -> Run:
        """One run of the benchmark."""
        limit, of_method, (rate, prompts) = self.worlds[world]["limit"], self.methods[method], cell
        rollouts = min(limit["rollouts"], limit["steps"] * prompts)
        return Run(
            world=world,
            method=method,
            learning_rate=rate,
            prompts_per_step=prompts,
            seed=seed,
            target_accuracy=self.target(world),
            limit=rollouts,
            acceleration=of_method.get("acceleration", "none"),
            extrapolation=of_method.get("extrapolation"),
            optim=of_method.get("optim", "adamw_torch_fused"),
            expected_cost=self._seconds(world, method, cell, rollouts),
            **{name: self.settings[name] for name in ("evaluation_problems", "final_problems", "after_target", "fall")},
        )

    def is_built(self, world: str) -> bool:
        """Whether a world can be trained on here."""
        from effopd.world import card

        try:
            card(world)
        except (DataError, ConfigurationError):
            return False
        return True

    def target(self, world: str) -> float:
        """Target accuracy of a world."""
        if world not in self._targets:
            given = self.worlds[world].get("target")
            self._targets[world] = given if given is not None else target_accuracy(world)
        return self._targets[world]

    def _cells(
        self, entry: Mapping[str, Any], method: str, world: str, records: Collection[Record]
    ) -> list[Cell] | None:
        if "best" in entry:
            return self._best(entry["best"], method, world, records)
        if entry.get("cells") == "default":
            return [self.default(method)]
        return _product(entry)

    def _best(
        self, choice: Mapping[str, Any], method: str, world: str, records: Collection[Record]
    ) -> list[Cell] | None:
        """The best cells of earlier stages, by the runs of seed 0 alone: later runs do not change the choice."""
        entries = [self._stages[stage] for stage in choice["of"]]
        asked = [entry for entry in entries if method in entry["methods"] and world in entry["worlds"]]
        cells = [cell for entry in asked for cell in _product(entry)]
        by_cell = {cell_of(record): record for record in records if is_first(record, method, world)}
        if not set(cells) <= set(by_cell):
            return None
        arrived = [cell for cell in cells if by_cell[cell]["steps_to_target"] is not None]

        def cheapest(candidates: Iterable[Cell], quantity: str = "rollouts") -> list[Cell]:
            return sorted(candidates, key=lambda cell: (by_cell[cell][f"{quantity}_to_target"], cell))

        chosen = cheapest(arrived)[: choice["cells"]]
        if choice.get("in_seconds"):
            chosen += cheapest(arrived, "cpu_seconds")[:1]
        for prompts in choice.get("at_prompts", ()):
            chosen += cheapest(cell for cell in arrived if cell[1] == prompts)[:1]
        return list(dict.fromkeys(chosen))

    def _seconds(self, world: str, method: str, cell: Cell, limit: int) -> float:
        """CPU seconds that a run is expected to take, with its evaluations and what follows the target."""
        e, (rate, prompts) = self._estimate, cell
        table = e["sgd_steps" if method == "sgd" else "steps"]
        steps = table[min(table, key=lambda each: abs(math.log(each / rate)))] * e["steps_factor"].get(method, 1.0)
        steps = min(steps, e["most_steps"].get(method, math.inf), limit / prompts)
        rollouts, after = steps * prompts, self.settings["after_target"]
        if rollouts < limit:
            rollouts += min(max(after["times"] * rollouts, after["at_least"]), after["at_most"])
        evaluations = min(steps, 16 + 16 * max(0.0, math.log2(steps / 16))) + 0.1 * steps + 16
        batches = self.settings["evaluation_problems"] / prompts
        training = rollouts * e["seconds_per_rollout"] + rollouts / prompts * e["seconds_per_step"]
        evaluation = evaluations * (e["seconds_per_evaluation"] + batches * e["seconds_per_evaluation_batch"])
        factor = e["method_factor"].get(method, 1.0)
        in_all = training * factor + evaluation + e["seconds_in_all"]
        return float(in_all * e["world_factor"].get(world, 1.0))


def cell_of(record: Record) -> Cell:
    """Learning rate and prompts per step of a run."""
    return record["run"]["learning_rate"], record["run"]["prompts_per_step"]


def is_first(record: Record, method: str, world: str) -> bool:
    """Whether a run is the first one, of seed 0, of a cell of a method in a world."""
    run = record["run"]
    return run["method"] == method and run["world"] == world and run["seed"] == 0


def _product(entry: Mapping[str, Any]) -> list[Cell]:
    return [
        (float(rate), prompts)
        for rate in entry.get("learning_rates", ())
        for prompts in entry.get("prompts_per_step", ())
    ]
