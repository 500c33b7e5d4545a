"""The goals of `grid.py`, each judged from the records of one world: met, missed, or not measured yet. No torch.

Where runs are censored, a ratio is known between bounds only. A goal is met or missed if both bounds say so.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import NamedTuple

from grid_plan import Cell, Plan, cell_of
from run_records import Record, costs, of_the_same_seeds, rate_text

from effopd.experiments.censored_statistics import CensoredEstimate, largest_cost_ratio, median_cost, median_cost_ratio

Runs = dict[tuple[str, Cell], list[Record]]
"""Runs of one world by method and cell, in the order of their seeds."""

MET, MISSED, UNDECIDED, UNMEASURED = "met", "missed", "not decided", "not measured yet"
STATEMENTS = {
    "a": "With its default number of prompts, at every rate, the method needs at least 1.5 times fewer rollouts than "
    "vanilla's best cell of the grid.",
    "b": "With each number of prompts and at every rate, it needs no more rollouts than vanilla at its best rate with "
    "as many prompts.",
    "c": "Over the rates, with its default number of prompts, its worst costs at most twice its best.",
    "d": "At its best, it needs no more rollouts than unguarded reuse at its best, and none of its runs fails.",
    "e": "Its final accuracy is not below vanilla's by more than one point.",
    "f": "At the target it has forgotten no more of the second skill than vanilla: the accuracy lost and the KL to the "
    "base are no larger.",
    "g": "It needs fewer CPU seconds than vanilla's best cell in CPU seconds.",
}


class Verdict(NamedTuple):
    """How one goal came out in one world.

    Attributes:
        goal: Letter of the goal.
        outcome: `met`, `missed`, `not decided` by censored runs, or `not measured yet`.
        found: Number that the outcome rests on, as text with its interval; what is missing, if it is not measured.
        needed: Number that is needed, as text.
        by: Text that says by how much the goal is met or missed; empty if it is neither.
        interval: For the page, a ratio with its interval, and whether that reaches across the number that is needed.
    """

    goal: str
    outcome: str
    found: str
    needed: str = ""
    by: str = ""
    interval: str = ""


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


def judge_all(world: World) -> list[Verdict]:
    """Judge every goal in a world."""
    verdicts = []
    for goal, judge in GOALS.items():
        try:
            verdicts.append(judge(world)._replace(goal=goal))
        except NotMeasuredError as missing:
            verdicts.append(Verdict(goal, UNMEASURED, str(missing)))
    return verdicts


def _at_most(
    found: CensoredEstimate, bound: float, *, strictly: bool = False, among: Sequence[CensoredEstimate] = ()
) -> Verdict:
    """Judge a ratio that should be at most a bound, or that is the largest among those that should be."""

    def holds(value: float) -> bool:
        return value < bound if strictly else value <= bound

    outcomes = {holds(found.at_least), holds(found.at_most)}
    outcome = UNDECIDED if len(outcomes) > 1 else MET if outcomes == {True} else MISSED
    by = _percent(1 - found.at_least / bound) if found.is_exact else ""
    needed = f"{'below' if strictly else 'at most'} {bound:g}"
    return Verdict("", outcome, found.format(".2f"), needed, by, _interval(found, among or [found], holds))


def _interval(shown: CensoredEstimate, judged: Sequence[CensoredEstimate], holds: Callable[[float], bool]) -> str:
    """Write a ratio with its interval, and for how many of those judged the interval has both outcomes in it."""
    across = sum(holds(each.low) != holds(each.high) for each in judged)
    of = f" in {across} of {len(judged)} cases" if len(judged) > 1 else ""
    return shown.format(".2f") + (f"; the interval reaches across{of}" if across else "")


def _percent(share: float) -> str:
    return f"{abs(share):.0%}" if abs(share) >= 0.1 else f"{abs(share):.1%}"


def _worst(verdicts: Sequence[tuple[str, CensoredEstimate]], bound: float, *, strictly: bool = False) -> Verdict:
    """Judge the largest of several named ratios, all of which should be at most a bound."""
    where, largest = max(verdicts, key=lambda item: (item[1].at_least, item[1].at_most))
    judged = [_at_most(found, bound, strictly=strictly).outcome for _, found in verdicts]
    outcome = MISSED if MISSED in judged else UNDECIDED if UNDECIDED in judged else MET
    verdict = _at_most(largest, bound, strictly=strictly, among=[found for _, found in verdicts])
    return verdict._replace(outcome=outcome, found=f"{verdict.found} {where}")


def _speedup(world: World) -> Verdict:
    best = world.best(["vanilla"])
    found = [
        (f"at {rate_text(cell[0])}", ratio(best, world.enough(world.method, cell))) for cell in world.default_cells()
    ]
    where, least = min(found, key=lambda item: (item[1].at_least, item[1].at_most))
    needed = 1.5
    certain = [estimate.at_least >= needed for _, estimate in found]
    impossible = [estimate.at_most < needed for _, estimate in found]
    outcome = MISSED if any(impossible) else MET if all(certain) else UNDECIDED
    by = _percent(least.at_least / needed - 1) if least.is_exact else ""
    rate, prompts = cell_of(best[0])
    text = f"{least.format('.2f')} {where}, against {rate_text(rate)} with {prompts} prompts"
    interval = _interval(least, [estimate for _, estimate in found], lambda value: value >= needed)
    return Verdict("", outcome, text, f"at least {needed}", by, interval)


def _same_prompts(world: World) -> Verdict:
    if world.name in world.plan.goals["only_default"]:
        raise NotMeasuredError("only the default cell is run in this world")
    found = []
    for prompts in world.plan.goals["prompts_per_step"]:
        best = world.best(["vanilla"], prompts=prompts)
        for rate in world.rates:
            estimate = ratio(world.enough(world.method, (rate, prompts)), best)
            found.append((f"at {rate_text(rate)} with {prompts} prompts", estimate))
    return _worst(found, 1.0)


def _sensitivity(world: World) -> Verdict:
    if len(world.rates) < 2:
        raise NotMeasuredError("only the default cell is run in this world")
    groups = of_the_same_seeds([world.enough(world.method, cell) for cell in world.default_cells()])
    if groups is None:
        raise NotMeasuredError("no seeds in common")
    all_costs = [costs(runs, "rollouts") for runs in groups]
    return _at_most(largest_cost_ratio(all_costs, all_costs), 2.0)


def _against_reuse(world: World) -> Verdict:
    reuse = world.plan.goals["reuse"]
    if not reuse:
        raise NotMeasuredError("the plan has no reuse")
    verdict = _at_most(ratio(world.best([world.method]), world.best(reuse)), 1.0)
    ours, theirs = (
        [failed(run) for (name, _), runs in world.runs.items() if name in names for run in runs]
        for names in ([world.method], reuse)
    )
    text = f"; failed: {sum(ours)} of {len(ours)} runs, of reuse {sum(theirs)} of {len(theirs)}"
    outcome, needed = MISSED if any(ours) else verdict.outcome, "at most 1; none failed"
    texts = {"found": verdict.found + text, "interval": verdict.interval + text}
    return verdict._replace(outcome=outcome, needed=needed, **texts)


def _final_accuracy(world: World) -> Verdict:
    def accuracy(runs: Sequence[Record]) -> float:
        return median(run["final"]["accuracy"] if run["final"] else 0.0 for run in runs)  # 0: diverged

    baseline = accuracy(world.best(["vanilla"]))
    found = {cell[0]: accuracy(world.enough(world.method, cell)) - baseline for cell in world.default_cells()}
    rate = min(found, key=found.__getitem__)
    points = 100 * found[rate]
    outcome = MET if points >= -1 else MISSED
    by = f"{abs(points + 1):.2f} points"
    return Verdict("", outcome, f"{points:+.2f} points at {rate_text(rate)}", "at least -1 point", by)


def _forgetting(world: World) -> Verdict:
    best = world.best(["vanilla"])
    arrived = [run for run in best if run["at_target"]]  # of the others it is unknown
    vanilla = forgetting(arrived)
    found = {cell[0]: forgetting(world.enough(world.method, cell)) for cell in world.default_cells()}
    if vanilla is None or None in found.values():
        raise NotMeasuredError("a run that did not arrive, or a world without a second skill")
    excess = {
        rate: tuple(mine - theirs for mine, theirs in zip(each, vanilla, strict=True))
        for rate, each in found.items()
        if each is not None
    }
    loss, kl = (max(each[index] for each in excess.values()) for index in range(2))
    outcome = MET if loss <= 0 and kl <= 0 else MISSED
    text = (
        f"against vanilla's loss of {100 * vanilla[0]:.2f} points and KL of {vanilla[1]:.4f} nats, "
        f"{100 * loss:+.2f} points and {kl:+.4f} nats, at accuracies from "
        f"{min(accuracy_at_target(world.runs[world.method, cell]) for cell in world.default_cells()):.3f} "
        f"against {accuracy_at_target(best):.3f}"
    )
    if len(arrived) < len(best):
        text += f"; vanilla's are the {len(arrived)} of {len(best)} runs that arrived"
    return Verdict("", outcome, text, "both at most 0")


def accuracy_at_target(runs: Sequence[Record]) -> float:
    """Median accuracy with which the target was reached; nan if no run reached it."""
    reached = [run["at_target"]["accuracy"] for run in runs if run["at_target"]]
    return median(reached) if reached else math.nan


def forgetting(runs: Sequence[Record]) -> tuple[float, float] | None:
    """Median loss of accuracy on the second skill and median KL to the base there, at the target; None if unknown."""
    measured = [(run["base_second_skill"], (run["at_target"] or {}).get("second_skill")) for run in runs]
    if not measured or any(base is None or now is None for base, now in measured):
        return None
    losses = [base["accuracy"] - now["accuracy"] for base, now in measured]
    return median(losses), median(now["kl_to_base"] for _, now in measured)


def _seconds(world: World) -> Verdict:
    best = world.best(["vanilla"], "cpu_seconds")
    found = [
        (f"at {rate_text(cell[0])}", ratio(world.enough(world.method, cell), best, "cpu_seconds"))
        for cell in world.default_cells()
    ]
    return _worst(found, 1.0, strictly=True)


GOALS: Mapping[str, Callable[[World], Verdict]] = {
    "a": _speedup,
    "b": _same_prompts,
    "c": _sensitivity,
    "d": _against_reuse,
    "e": _final_accuracy,
    "f": _forgetting,
    "g": _seconds,
}
