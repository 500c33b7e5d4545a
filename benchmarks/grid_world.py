"""The records of one world of `grid.py`: runs by method and cell, the best, ratios and differences. No torch."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from grid_plan import Cell, Plan, cell_of
from run_records import Record, costs, of_the_same_seeds, rate_text

from effopd.experiments.censored_statistics import CensoredEstimate, median_cost, median_cost_ratio, median_difference

Runs = dict[tuple[str, Cell], list[Record]]
"""Runs of one world by method and cell, in the order of their seeds."""


class NotMeasuredError(Exception):
    """Raised where records are missing; the message says which."""


def group(records: Sequence[Record], world: str) -> Runs:
    """Runs of a world by method and cell."""
    runs: Runs = {}
    for record in sorted(records, key=lambda record: record["run"]["seed"]):
        if record["run"]["world"] == world:
            runs.setdefault((record["run"]["method"], cell_of(record)), []).append(record)
    return runs


def failed(record: Record) -> bool:
    """Whether a run diverged, did not arrive within its limit, or fell back afterwards."""
    after = record["after_target"]
    return bool(record["diverged"] or after is None or after["fell"])


@dataclass(frozen=True)
class World:
    """The records of one world, and what the plan says of it."""

    name: str
    runs: Runs
    plan: Plan

    @property
    def rates(self) -> list[float]:
        """Rates that the goals speak of in this world."""
        if self.name in self.plan.goals["only_default"]:
            return [self.plan.default(self.method)[0]]
        return [float(rate) for rate in self.plan.goals["learning_rates"]]

    @property
    def method(self) -> str:
        """The method that the goals speak of."""
        return str(self.plan.goals["method"])

    def default_cells(self) -> list[Cell]:
        """The method's cells with its default number of prompts."""
        return [(rate, self.plan.default(self.method)[1]) for rate in self.rates]

    def enough(self, method: str, cell: Cell) -> list[Record]:
        """The runs of a cell, if there are enough for a goal."""
        runs, needed = self.runs.get((method, cell), []), self.plan.settings["seeds_for_a_goal"]
        if len(runs) < needed:
            raise NotMeasuredError(
                f"{len(runs)} of {needed} seeds of {self.plan.methods[method]['label']} at {rate_text(cell[0])} "
                f"with {cell[1]} prompts"
            )
        return runs

    def best(self, methods: Sequence[str], quantity: str = "rollouts", prompts: int | None = None) -> list[Record]:
        """Runs of the cell with the least median cost, among those with enough seeds.

        Every planned cell must have been run, and the cheapest by seed 0 must be among those with enough seeds.
        """
        cells = [
            (method, cell)
            for method in methods
            for cell in self.plan.grid(method, self.name)
            if prompts in (None, cell[1])
        ]
        label = " and ".join(self.plan.methods[method]["label"] for method in methods)
        if missing := [key for key in cells if key not in self.runs]:
            raise NotMeasuredError(f"{len(missing)} of the {len(cells)} cells of {label} have no run")
        if not cells:
            raise NotMeasuredError(f"the plan has no cells of {label} with {prompts} prompts")
        self.enough(*min(cells, key=lambda key: _cost(self.runs[key][:1], quantity)))
        needed = self.plan.settings["seeds_for_a_goal"]
        measured = (self.runs[key] for key in cells if len(self.runs[key]) >= needed)
        return min(measured, key=lambda runs: _cost(runs, quantity))

    def best_cell(self, method: str) -> Cell | None:
        """A method's cell with the least median rollouts, among those with enough seeds for a goal if there are any."""
        runs = {cell: runs for (name, cell), runs in self.runs.items() if name == method}
        needed = self.plan.settings["seeds_for_a_goal"]
        runs = {cell: each for cell, each in runs.items() if len(each) >= needed} or runs
        medians = {cell: _cost(each, "rollouts") for cell, each in runs.items()}
        arrived = [cell for cell, (at_most, _) in medians.items() if math.isfinite(at_most)]
        return min(arrived, key=lambda cell: (medians[cell], cell), default=None)


def _cost(runs: Sequence[Record], quantity: str) -> tuple[float, float]:
    """Upper and lower bound of a median cost: a cell that does not arrive comes after all that do."""
    found = median_cost(costs(runs, quantity), num_resamples=1)
    return found.at_most, found.at_least


def ratio(numerator: Sequence[Record], denominator: Sequence[Record], quantity: str = "rollouts") -> CensoredEstimate:
    """Ratio of median costs over the seeds that both have."""
    paired = of_the_same_seeds([numerator, denominator])
    if paired is None:
        raise NotMeasuredError("no seeds in common")
    return median_cost_ratio(*(costs(runs, quantity) for runs in paired))


def difference(
    ours: Sequence[Record], theirs: Sequence[Record], values: Callable[[Sequence[Record]], list[float]]
) -> CensoredEstimate:
    """Difference of the medians of what `values` reads from runs, over the seeds that both have."""
    paired = of_the_same_seeds([ours, theirs])
    if paired is None:
        raise NotMeasuredError("no seeds in common")
    return median_difference(*map(values, paired))


def accuracy_at_target(runs: Sequence[Record]) -> float:
    """Median accuracy with which the target was reached; nan if no run reached it."""
    reached = [run["at_target"]["accuracy"] for run in runs if run["at_target"]]
    return median(reached) if reached else math.nan


def forgetting(runs: Sequence[Record]) -> tuple[float, float] | None:
    """Median loss of accuracy on the second skill and median KL to the base there, at the target; None if unknown."""
    pairs = [(run["base_second_skill"], (run["at_target"] or {}).get("second_skill")) for run in runs]
    if not pairs or any(None in pair for pair in pairs):
        return None
    return median(points_lost(runs)) / 100, median(kl_to_base(runs))


def points_lost(runs: Sequence[Record]) -> list[float]:
    """Accuracy of each run on the second skill that is lost at the target, in points."""
    return [100 * (run["base_second_skill"]["accuracy"] - run["at_target"]["second_skill"]["accuracy"]) for run in runs]


def kl_to_base(runs: Sequence[Record]) -> list[float]:
    """KL of each run at the target to the base, on prompts of the second skill, in nats per token."""
    return [run["at_target"]["second_skill"]["kl_to_base"] for run in runs]
