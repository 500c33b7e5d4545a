"""Where the method would also save time: how much of it plain distillation must spend on sampling. No torch."""

import math
from collections.abc import Iterable, Sequence
from statistics import median

from grid_world import NotMeasuredError, World
from run_records import Record

SAMPLING = ("generation", "teacher")  # phases of which a completion costs the same under every method


def sampling_share(record: Record) -> float:
    """Share of a run's time that it spent on sampling completions and on the teacher's reading of them."""
    seconds = record["seconds"]
    return float(sum(seconds[phase] for phase in SAMPLING) / sum(seconds.values()))


def training_cost(record: Record, teacher: float | None = None) -> float:
    """CPU seconds per completion of all else: passes over it, the optimizer's steps, scoring of candidates.

    Args:
        record: Record of a run.
        teacher: Seconds that the teacher reads for each second of generation; None takes the record's own. Records of
            line searches that were made before December 2026 have the teacher's seconds among those of validation.
    """
    counted = record if record["steps_to_target"] else record["spent"]
    share = sampling_share(record)
    if teacher is not None:
        share = record["seconds"]["generation"] * (1 + teacher) / sum(record["seconds"].values())
    return float((1 - share) * counted["cpu_seconds_to_target"] / counted["rollouts_to_target"])


def break_even(world: World, ours: Sequence[Record], theirs: Sequence[Record]) -> dict[str, float] | None:
    """Sampling's share of plain distillation's time from which on `ours` arrives sooner than `theirs`.

    Let sampling a completion and the teacher's reading cost r times what plain distillation spends on training on it,
    and let ours spend k times as much on that. R completions then cost R (r + 1) and R (r + k): both take as long
    where r = (R_ours k - R_theirs) / (R_theirs - R_ours). Time is taken to be in proportion to completions, whatever
    the number of prompts per step: what fewer steps save by larger batches is not counted. k is measured against plain
    distillation with as many prompts per step; the teacher reads for as long per second of generation in both.

    Returns:
        `needed`, the share r / (r + 1); `here`, the share that plain distillation spends in this world; and
        `training_factor`, k. None if ours needs no fewer completions, a median run does not arrive, or plain
        distillation has no run with as many prompts.
    """
    few, many = (median(run["rollouts_to_target"] or math.inf for run in runs) for runs in (ours, theirs))
    prompts = ours[0]["run"]["prompts_per_step"]
    cells = [runs for (method, cell), runs in world.runs.items() if method == "vanilla" and cell[1] == prompts]
    plain = [run for runs in cells for run in runs if not run["diverged"]]
    if not plain or not few < many < math.inf:
        return None
    teacher = median(run["seconds"]["teacher"] / run["seconds"]["generation"] for run in plain)
    factor = median(training_cost(run, teacher) for run in ours) / median(map(training_cost, plain))
    ratio = max(0.0, (few * factor - many) / (many - few))
    return {"needed": ratio / (ratio + 1), "here": median(map(sampling_share, plain)), "training_factor": factor}


def break_evens(world: World) -> Iterable[Record]:
    """Compare the method at its default rate with plain distillation's best cell, and with its best rate.

    With its best cell, the method in its default cell; with its best rate, both with as many prompts, where
    `prompts_per_step` is their number.
    """
    rate, default = world.plan.default(world.method)
    for prompts in (None, *world.plan.goals["prompts_per_step"]):
        ours = world.runs.get((world.method, (rate, prompts or default)))
        try:
            theirs = world.best(["vanilla"], prompts=prompts)
        except NotMeasuredError:
            continue
        if ours and (found := break_even(world, ours, theirs)):
            yield {"world": world.name, "prompts_per_step": prompts, "rate": rate, **found}
