"""From the records of all worlds to the verdicts on all claims, as `claims.json` holds them."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from effopd.study.claims import CLAIMS
from effopd.study.claims.claim import Bound, Claim
from effopd.study.records import Records, TooFewWorldsError, UnresolvedError
from effopd.study.verdict import Comparison, Verdict, compare_world, compare_worlds, held_back, holm, overall


@dataclass
class _Measured:
    """A claim's statistic wherever the records allow it.

    Attributes:
        values: Values by world and seed.
        lacking: Seeds for which records are missing, by world and what is missing. A world without seeds has no runs.
        unresolved: Seeds for which the records do not determine the statistic, by world and reason.
    """

    values: dict[str, dict[int, float]] = field(default_factory=dict)
    lacking: dict[tuple[str, str], list[int]] = field(default_factory=dict)
    unresolved: dict[tuple[str, str], list[int]] = field(default_factory=dict)

    @property
    def lists(self) -> dict[str, list[float]]:
        return {world: list(of.values()) for world, of in self.values.items()}

    @property
    def is_complete(self) -> bool:
        """Whether every planned run has given a value."""
        return not self.unresolved and not any(self.lacking.values())

    @property
    def bounds(self) -> dict[tuple[str, str], list[int]]:
        """Seeds of which only a bound is known, by world and what the bound is."""
        found: dict[tuple[str, str], list[int]] = {}
        for world, values in self.values.items():
            for seed, value in values.items():
                if isinstance(value, Bound):
                    side = "at least" if value.is_lower else "at most"
                    found.setdefault((world, f"{side} the given value, as {value.why}"), []).append(seed)
        return found

    def notes(self) -> list[str]:
        """Say what is missing, unresolved, or known as a bound only."""
        found = [*self.lacking.items(), *self.unresolved.items(), *self.bounds.items()]
        return [
            f"{world}: {what}" + (f" (seed {', '.join(map(str, seeds))})" if seeds else "")
            for (world, what), seeds in found
        ]


def judge(records: Sequence[Records], claims: Iterable[Claim] = CLAIMS) -> list[dict[str, Any]]:
    """Judge every claim by the records.

    A claim is decided only if every planned run that it needs has given a value: to leave out those that failed, or
    that never reached a target, would favour whoever they belong to.

    Args:
        records: The records of each world.
        claims: The claims.

    Returns:
        For each claim what was written down (`Claim.to_json`) and `needs`; `estimate`, `low` and `high` over
        all worlds, and `bounds`, where it is known to be `at least` or `at most` so large; `p` and `p_holm`;
        `num_runs`, the number of runs that values come from; `worlds`, with `values` by seed, `estimate`,
        `low`, `high`, `bounds` and `verdict` of each; `verdict`; and `notes`, which say what is missing,
        unresolved, or known as a bound only. Numbers that cannot be computed are None.
    """
    measured = {claim: _measure(claim, records) for claim in claims}
    found = {claim: compare_worlds(claim, each.lists) for claim, each in measured.items() if each.values}
    adjusted = holm({claim.name: each.p for claim, each in found.items() if each.p is not None})
    return [
        _entry(claim, each, found.get(claim), adjusted.get(claim.name), len(records))
        for claim, each in measured.items()
    ]


ALL_WORLDS = "all worlds"
"""The name, among those of worlds, under which the values of a claim about all worlds together are."""


def _measure(claim: Claim, records: Sequence[Records]) -> _Measured:
    if claim.over_worlds is not None:
        return _measure_over_worlds(claim, records)
    found = _Measured()
    roles = list(dict.fromkeys(need.role for need in claim.needs))
    for world in records:
        seeds = {role: {seed for each, seed in world.planned if each == role} for role in roles}
        if missing := [role for role in roles if not seeds[role]]:
            found.lacking[world.world, f"there are no runs of {', '.join(missing)}"] = []
        for seed in sorted(set.intersection(*seeds.values())):
            if lacking := [str(need) for need in claim.needs if not world.has(need, seed)]:
                found.lacking.setdefault((world.world, f"lacks {' and '.join(lacking)}"), []).append(seed)
                continue
            try:
                value = _defined(claim, partial(claim.measure, world, seed))
            except UnresolvedError as reason:
                found.unresolved.setdefault((world.world, str(reason)), []).append(seed)
            else:
                found.values.setdefault(world.world, {})[seed] = value
    return found


def _defined(claim: Claim, measure: Callable[[], float]) -> float:
    """Compute a statistic, which is not defined where, say, a run that moved nothing is divided by."""
    try:
        value = measure()
    except ZeroDivisionError:
        value = math.nan
    if not math.isfinite(value) or (claim.is_ratio and value <= 0):
        raise UnresolvedError("the statistic is not defined for these runs")
    return value


def _measure_over_worlds(claim: Claim, records: Sequence[Records]) -> _Measured:
    """Compute a statistic of all worlds together, for each seed that has runs of every role in all of them."""
    found = _Measured()
    assert claim.over_worlds is not None
    roles = {need.role for need in claim.needs}
    planned = [{seed for each, seed in world.planned if each == role} for world in records for role in roles]
    seeds = sorted(set.intersection(*planned)) if planned else []
    if not seeds:
        found.lacking[ALL_WORLDS, f"no seed has runs of {', '.join(sorted(roles))} in every world"] = []
    for seed in seeds:
        lacking = [f"{need} in {world.world}" for world in records for need in claim.needs if not world.has(need, seed)]
        if lacking:
            found.lacking.setdefault((ALL_WORLDS, f"lacks {' and '.join(lacking)}"), []).append(seed)
            continue
        try:
            value = _defined(claim, partial(claim.over_worlds, records, seed))
        except UnresolvedError as reason:
            found.unresolved.setdefault((ALL_WORLDS, str(reason)), []).append(seed)
        except TooFewWorldsError as reason:
            found.lacking.setdefault((ALL_WORLDS, str(reason)), []).append(seed)
        else:
            found.values.setdefault(ALL_WORLDS, {})[seed] = value
    return found


def _entry(
    claim: Claim, measured: _Measured, found: Comparison | None, adjusted: float | None, num_worlds: int
) -> dict[str, Any]:
    by_world = {world: compare_world(claim, values) for world, values in measured.lists.items()}
    verdicts = {
        world: held_back(each.verdict(each.p), claim, measured.lists[world]) for world, each in by_world.items()
    }
    every = [value for values in measured.lists.values() for value in values]
    verdict: Verdict = "undecided"
    if found is None and not measured.unresolved:
        verdict = "not measured"
    elif found is not None and measured.is_complete:
        verdict = held_back(overall(found, adjusted, list(verdicts.values())), claim, every)
    return {
        **claim.to_json(),
        "needs": [str(need) for need in claim.needs],
        "verdict": verdict,
        **_numbers(found, every),
        "p": None if found is None else found.p,
        "p_holm": adjusted,
        "num_runs": sum(map(len, measured.values.values()))
        * len({need.role for need in claim.needs})
        * (1 if claim.over_worlds is None else num_worlds),
        "worlds": {
            world: {
                "values": {str(seed): value for seed, value in measured.values[world].items()},
                **_numbers(each, measured.lists[world]),
                "verdict": verdicts[world],
            }
            for world, each in by_world.items()
        },
        "notes": measured.notes(),
    }


def _numbers(found: Comparison | None, values: Iterable[float]) -> dict[str, Any]:
    """Write an estimate with its interval, and whether the true one may be larger or smaller because of bounds."""
    if found is None:
        return dict.fromkeys(("estimate", "low", "high"))
    sides = {"at least" if value.is_lower else "at most" for value in values if isinstance(value, Bound)}
    return {"estimate": found.estimate, "low": found.low, "high": found.high, "bounds": sorted(sides)}
