"""Where the paper's contrast between OPD and RL begins: it is looked for along three axes.

The contrast is what OPD gains per unit of update norm, less what RL gains. It is present at a level of an axis if its
95 % t-interval over seeds, with p adjusted by Holm's procedure over the levels of the axis in that world, lies above 0.
It begins between two neighbouring levels if it is present from the second on at all levels, and not shown before.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from effopd.study.claims.claim import PAPER, Claim
from effopd.study.claims.linearized import share_in_few
from effopd.study.claims.norms import gain_per_norm
from effopd.study.records import Records, UnresolvedError, needs
from effopd.study.verdict import compare_world, holm

STATISTIC = "gain in accuracy over the base, divided by the norm of the final update: OPD less RL"
_PRESENT = "supported"


@dataclass(frozen=True)
class Axis:
    """A direction in which the contrast may begin.

    Attributes:
        name: Short name.
        title: What grows along it, in words.
        levels: Each level in words, with the role of its RL runs, in the order in which the contrast is expected to
            begin. Without levels, they are the worlds, in the order of their dimensions.
    """

    name: str
    title: str
    levels: tuple[tuple[str, str], ...] = ()


AXES = (
    Axis(
        "longer",
        "RL trains longer",
        (("as planned", "rl"), ("twice as long", "rl-x2"), ("four times as long", "rl-x4")),
    ),
    Axis(
        "sparser",
        "RL's reward is sparser",
        (("every right answer", "rl"), ("one in 4", "rl-sparse-4"), ("one in 16", "rl-sparse-16")),
    ),
    Axis("dimensions", "the world has more dimensions"),
)
ROLES = tuple(dict.fromkeys(role for axis in AXES for _, role in axis.levels))


def find_boundaries(records: Sequence[Records]) -> list[dict[str, Any]]:
    """Look for the boundary along every axis: in each world, and for dimensions over the worlds.

    Returns:
        For each axis and world `axis`, `title`, `world` (None over worlds), `levels` and `found`, a sentence. A level
        has `name`, `values` by seed, `estimate`, `low`, `high`, `p_holm` and `present`, which is None if it was not
        measured; `note` then says why.
    """
    found = []
    for axis in AXES:
        if axis.levels:
            for world in records:
                levels = [(name, *_values(world, role)) for name, role in axis.levels]
                found.append(_entry(axis, world.world, levels))
        else:
            found.append(_entry(axis, None, _worlds_by_dimension(records)))
    return found


def where_it_begins(names: Sequence[str], present: Sequence[bool | None]) -> str:
    """Say between which levels the contrast begins, from where it is present; None is a level without a measurement."""
    known = [(name, there) for name, there in zip(names, present, strict=True) if there is not None]
    if len(known) < 2:
        return "Not looked for: fewer than two levels were measured."
    there = [each for _, each in known]
    if not any(there):
        return f"No boundary was found: the contrast is not shown at any level, up to {known[-1][0]}."
    if all(there):
        return f"No boundary was found: the contrast is there from the first level on, {known[0][0]}."
    first = there.index(True)
    if not all(there[first:]):
        return "No boundary was found: the contrast comes and goes along the levels."
    return f"The contrast begins between {known[first - 1][0]} and {known[first][0]}."


def _values(world: Records, role: str) -> tuple[dict[int, float], str]:
    """Compute the contrast with a role's runs for every seed; if one of them lacks something, none and what it is."""
    values: dict[int, float] = {}
    seeds = sorted(seed for each, seed in world.planned if each == role)
    if not seeds:
        return {}, f"there are no runs of {role}"
    for seed in seeds:
        lacking = [str(need) for need in needs("update_norm", "opd", role) if not world.has(need, seed)]
        if lacking:
            return {}, f"lacks {' and '.join(lacking)}"
        try:
            values[seed] = gain_per_norm(world, seed, role)
        except UnresolvedError as reason:
            return {}, str(reason)
    return values, ""


def _worlds_by_dimension(records: Sequence[Records]) -> list[tuple[str, dict[int, float], str]]:
    """Order the worlds by the share of b in few eigenvectors, from the most concentrated, of the fewest dimensions."""
    placed: list[tuple[float, Records]] = []
    others: list[tuple[str, dict[int, float], str]] = []
    for world in records:
        try:
            share = sum(share_in_few(world, seed) for seed in world.linearized) / len(world.linearized)
        except (UnresolvedError, ZeroDivisionError):
            others.append((world.world, {}, "its dimensions are not known (effopd linearize)"))
        else:
            placed.append((share, world))
    placed.sort(key=lambda each: -each[0])
    return [(f"{world.world} (share {share:.2f})", *_values(world, "rl")) for share, world in placed] + others


def _entry(axis: Axis, world: str | None, levels: Sequence[tuple[str, dict[int, float], str]]) -> dict[str, Any]:
    compared = {name: compare_world(_contrast(name), list(values.values())) for name, values, _ in levels if values}
    adjusted = holm({name: each.p for name, each in compared.items() if each.p is not None})
    rows = []
    for name, values, note in levels:
        row: dict[str, Any] = {"name": name, "values": {str(seed): value for seed, value in values.items()}}
        row |= dict.fromkeys(("estimate", "low", "high", "p_holm", "present")) | {"note": note}
        if (each := compared.get(name)) is not None:
            row |= {"estimate": each.estimate, "low": each.low, "high": each.high, "p_holm": adjusted.get(name)}
            if each.p is None:
                row["note"] = "too few seeds, or seeds that all agree, for a test"
            else:
                row["present"] = each.verdict(adjusted.get(name)) == _PRESENT
        rows.append(row)
    sentence = where_it_begins([row["name"] for row in rows], [row["present"] for row in rows])
    return {"axis": axis.name, "title": axis.title, "world": world, "levels": rows, "found": sentence}


def _contrast(name: str) -> Claim:
    """Write the presence of the contrast at a level as a claim, for the test that claims have."""
    return Claim(
        name=name,
        theme="",
        statement=f"The contrast is present at {name}.",
        source=f"{PAPER}, accuracy against the norm of the update",
        statistic=STATISTIC,
        threshold=0.0,
        direction="above",
        needs=(),
        measure=gain_per_norm,
    )
