"""What the reports of `speedup.py` and `grid.py` have in common: costs of records, pairs of seeds, JSON and tables."""

import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

from effopd.experiments.censored_statistics import CensoredEstimate
from effopd.experiments.cost_to_target import CostRange, cost_range

Record = dict[str, Any]


def costs(runs: Sequence[Record], quantity: str) -> list[CostRange]:
    """Cost of each run. One that diverged never arrives, so it counts as more than the rollouts allowed."""
    ranges = [cost_range(run, f"{quantity}_to_target") for run in runs]
    if quantity != "rollouts":
        return ranges
    return [
        (max(low, run["run"]["limit"]), high) if run.get("diverged") and math.isinf(high) else (low, high)
        for run, (low, high) in zip(runs, ranges, strict=True)
    ]


def of_the_same_seeds(groups: Sequence[Sequence[Record]]) -> list[list[Record]] | None:
    """The runs of those seeds that all groups have, in the same order; None if there is no such seed."""
    seeds = set.intersection(*({run["run"]["seed"] for run in group} for group in groups))
    return [[run for run in group if run["run"]["seed"] in seeds] for group in groups] if seeds else None


def versions_of(records: Sequence[Record]) -> dict[str, Any]:
    """One version per package, or all that occur among the runs."""
    packages = records[0]["versions"]
    found = {package: sorted({record["versions"][package] for record in records}) for package in packages}
    return {package: values[0] if len(values) == 1 else values for package, values in found.items()}


def estimate(value: dict[str, float | None]) -> CensoredEstimate:
    """Read an estimate back from JSON, where None stands for infinity."""
    return CensoredEstimate(**{key: math.inf if number is None else number for key, number in value.items()})


def one_row_per_line(summary: dict[str, Any]) -> str:
    """JSON with each cell and each run on a line of its own: compact, and still readable as a diff."""
    lines = []
    for key, value in summary.items():
        if isinstance(value, list):
            rows = ",\n    ".join(json.dumps(row, allow_nan=False) for row in value)
            lines.append(f"  {json.dumps(key)}: [\n    {rows}\n  ]")
        else:
            lines.append(f"  {json.dumps(key)}: {json.dumps(value, allow_nan=False)}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def table_of(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def rate_text(rate: float) -> str:
    """A learning rate: `3e-5`, `0.01`, `1`."""
    return f"{rate:.0e}".replace("e-0", "e-") if rate < 0.01 else f"{rate:g}"
