"""The tables of README.md and docs/results.md hold the numbers of benchmarks/results/speedup.json, and no others."""

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from effopd.experiments.censored_statistics import CensoredEstimate

ROOT = Path(__file__).parents[2]
SUMMARY = json.loads((ROOT / "benchmarks" / "results" / "speedup.json").read_text())
CELLS = {
    (cell["estimator"], cell["prompts_per_step"], cell["method"], cell["learning_rate"]): cell
    for cell in SUMMARY["cells"]
}
# Heads of columns -> methods.
METHODS = {
    "vanilla OPD": "vanilla",
    "EffOPD, `paper`": "paper",
    "EffOPD, `reference`": "reference",
    "`adaptive` (ours)": "adaptive",
}


def tables(page: str) -> list[tuple[str, list[str], list[list[str]]]]:
    """Every table with a column of learning rates: the heading above it, its head and its rows."""
    found, heading, lines = [], "", page.splitlines()
    for index, line in enumerate(lines):
        if line.startswith("#"):
            heading = line
        if line.startswith("| learning rate |"):
            rows = []
            for row in lines[index + 2 :]:
                if not row.startswith("|"):
                    break
                rows.append([cell.strip() for cell in row.strip("|").split("|")])
            found.append((heading, [cell.strip() for cell in line.strip("|").split("|")], rows))
    return found


def shown(cell: dict[str, Any], quantity: str) -> str:
    value = {key: math.inf if number is None else number for key, number in cell[quantity].items()}
    text = CensoredEstimate(**value).format(",.0f")
    if not cell["num_censored"]:
        return text
    return f"{text.partition(' [')[0]} ({cell['num_censored']} of {cell['num_runs']})" if text[0] == ">" else text


@pytest.mark.parametrize("page", ["README.md", "docs/results.md"])
def test_the_tables_of_costs(page: str) -> None:
    checked = 0
    for heading, head, rows in tables((ROOT / page).read_text()):
        estimator = "sampled" if "own estimator" in heading else "full_vocab"
        match = re.search(r"(\d[\d,]*) prompts per step", heading)
        prompts = int(match[1].replace(",", "")) if match else 256
        for row in rows:
            rate = float(row[0])
            for name, text in zip(head[1:], row[1:], strict=True):
                if text == "not run":
                    continue
                assert text == shown(CELLS[estimator, prompts, METHODS[name], rate], "rollouts"), (
                    page,
                    heading,
                    row[0],
                )
                checked += 1
    assert checked >= 9
