"""The goals of `grid.py`, each judged from the records of one world: met, missed, or not measured yet. No torch.

Where runs are censored, a ratio is known between bounds only. A goal is met or missed if both bounds say so.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from grid_plan import cell_of
from grid_world import (
    NotMeasuredError,
    World,
    accuracy_at_target,
    difference,
    failed,
    forgetting,
    kl_to_base,
    points_lost,
    ratio,
)
from run_records import Record, costs, of_the_same_seeds, rate_text

from effopd.experiments.censored_statistics import CensoredEstimate, largest_cost_ratio

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
        interval: For the page, an estimate with its interval, and whether that reaches across what is needed.
    """

    goal: str
    outcome: str
    found: str
    needed: str = ""
    by: str = ""
    interval: str = ""


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


def _interval(
    shown: CensoredEstimate,
    judged: Sequence[CensoredEstimate],
    holds: Callable[[float], bool],
    *,
    spec: str = ".2f",
    unit: str = "",
) -> str:
    """Write an estimate with its interval, and for how many of those judged the interval has both outcomes in it."""
    across = sum(holds(each.low) != holds(each.high) for each in judged)
    of = f" in {across} of {len(judged)} cases" if len(judged) > 1 else ""
    return shown.format(spec) + unit + (f"; the interval reaches across{of}" if across else "")


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
    def accuracies(runs: Sequence[Record]) -> list[float]:
        return [100 * run["final"]["accuracy"] if run["final"] else 0.0 for run in runs]  # 0: diverged

    best = world.best(["vanilla"])
    found = {cell[0]: difference(world.enough(world.method, cell), best, accuracies) for cell in world.default_cells()}
    rate, least = min(found.items(), key=lambda item: item[1].at_least)
    points = least.at_least
    by = f"{abs(points + 1):.2f} points"
    interval = _interval(least, list(found.values()), lambda value: value >= -1, spec="+.2f", unit=" points")
    text = f"{points:+.2f} points at {rate_text(rate)}"
    return Verdict("", MET if points >= -1 else MISSED, text, "at least -1 point", by, interval)


def _forgetting(world: World) -> Verdict:
    best = world.best(["vanilla"])
    arrived = [run for run in best if run["at_target"]]  # of the others it is unknown
    vanilla, cells = forgetting(arrived), [world.enough(world.method, cell) for cell in world.default_cells()]
    if vanilla is None or any(forgetting(runs) is None for runs in cells):
        raise NotMeasuredError("a run that did not arrive, or a world without a second skill")
    loss, kl = (
        max((difference(runs, arrived, measured) for runs in cells), key=lambda found: found.at_least)
        for measured in (points_lost, kl_to_base)
    )
    outcome = MET if max(loss.at_least, kl.at_least) <= 0 else MISSED
    text = (
        f"against vanilla's loss of {100 * vanilla[0]:.2f} points and KL of {vanilla[1]:.4f} nats, "
        f"{loss.format('+.2f')} points and {kl.format('+.4f')} nats, at accuracies from "
        f"{min(map(accuracy_at_target, cells)):.3f} against {accuracy_at_target(best):.3f}"
    )
    few = f"; vanilla's are the {len(arrived)} of {len(best)} runs that arrived" if len(arrived) < len(best) else ""
    across = "; an interval reaches across" if max(loss.high, kl.high) > 0 >= max(loss.low, kl.low) else ""
    interval = f"accuracy lost {loss.format('+.2f')} points, KL {kl.format('+.3f')} nats{across}{few}"
    return Verdict("", outcome, text + few, "both at most 0", interval=interval)


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
