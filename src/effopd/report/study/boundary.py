"""Where the contrast between OPD and RL begins, as tables: one for each axis and world."""

from collections.abc import Mapping, Sequence
from typing import Any

from effopd.report.study.words import p_value
from effopd.report.table import NONE, Table

TITLE = "Where the contrast begins"
ABOUT = (
    "The contrast is OPD's gain in accuracy per unit of update norm, less RL's. It is present at a level if its 95 % "
    "t-interval over seeds lies above 0, with p adjusted by Holm's procedure over the levels of the axis. Worlds are "
    "in the order of the share of |b|² in the first ten eigenvectors of the curvature, the most concentrated first."
)


def boundary_tables(content: Mapping[str, Any]) -> list[Table]:
    """Make the tables of the axes along which at least one level was measured; the others are in `not_looked_for`."""
    return [_table(entry) for entry in content["boundaries"] if _measured(entry["levels"])]


def not_looked_for(content: Mapping[str, Any]) -> list[str]:
    """Name the axes of which nothing was measured, with the reason."""
    return [
        f"{_name(entry)}: {entry['levels'][0]['note'] if entry['levels'] else 'there are no worlds'}."
        for entry in content["boundaries"]
        if not _measured(entry["levels"])
    ]


def _table(entry: Mapping[str, Any]) -> Table:
    rows = tuple(
        (level["name"], _present(level), _estimate(level), p_value(level["p_holm"]), str(len(level["values"])))
        for level in entry["levels"]
    )
    header = ("level", "contrast", "estimate", "p (Holm)", "seeds")
    key = f"{entry['axis']}-{entry['world'] or 'worlds'}"
    return Table(key, _name(entry), entry["found"], header, rows, text_columns=2)


def _name(entry: Mapping[str, Any]) -> str:
    title = entry["title"][0].upper() + entry["title"][1:]
    return f"{title}, in {entry['world']}" if entry["world"] else title


def _present(level: Mapping[str, Any]) -> str:
    if level["present"] is None:
        return str(level["note"])
    return "present" if level["present"] else "not shown"


def _estimate(level: Mapping[str, Any]) -> str:
    if level["estimate"] is None:
        return NONE
    interval = "" if level["low"] is None else f" [{level['low']:.3f}, {level['high']:.3f}]"
    return f"{level['estimate']:.3f}{interval}"


def _measured(levels: Sequence[Mapping[str, Any]]) -> bool:
    return any(level["estimate"] is not None for level in levels)
