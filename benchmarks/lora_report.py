"""The report of `lora.py`: what each way to extrapolate an adapter cost at each rate, and what it lost of a jump."""

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from run_records import Record, costs, of_the_same_seeds, one_row_per_line, rate_text, table_of, versions_of

from effopd.experiments.censored_statistics import median_cost, median_cost_ratio
from effopd.files import write_text

HOW = (
    "Adapters of rank 8 and alpha 16 on every linear layer but the head. Costs include those of validation. Medians "
    "over the seeds, with their range in brackets; that of three runs covers the true median with a probability of "
    "75 %. CPU seconds leave out evaluation; the machine was busy with other work."
)
WAYS = (
    "`product` is what effopd does: the product of the factors is extrapolated, and truncated to its rank. `separate` "
    "extrapolates both factors each for itself, `folded` adds the jump of the product to the base, exactly."
)
Cells = dict[str, dict[float, list[Record]]]  # by arm and rate, in the order of the seeds


def write_report(records: Sequence[Record], results: Path, command: str, note: str) -> None:
    """Write `lora.json` and `lora.md`."""
    worlds = dict.fromkeys(record["run"]["world"] for record in records)
    lines = ["# LoRA: what to extrapolate", "", f"`{command}`. {HOW}", "", WAYS, "", *([note, ""] if note else [])]
    runs = []
    for world in worlds:
        of_world = [record for record in records if record["run"]["world"] == world]
        cells = cells_of(of_world)
        lines += section(world, of_world[0]["run"], cells)
        runs += [short(record) for by_rate in cells.values() for group in by_rate.values() for record in group]
    summary = {"command": command, "note": note, "versions": versions_of(list(records)), "runs": runs}
    write_text(results / "lora.json", one_row_per_line(summary))
    write_text(results / "lora.md", "\n".join(lines).rstrip() + "\n")
    print(f"Wrote {results}/lora.json and .md.")


def cells_of(records: Sequence[Record]) -> Cells:
    """Sort the records of one world by arm and rate."""
    cells: Cells = {}
    for record in sorted(records, key=lambda record: record["run"]["seed"]):
        cells.setdefault(arm_of(record), {}).setdefault(record["run"]["learning_rate"], []).append(record)
    return {arm: cells[arm] for arm in sorted(cells, key=ORDER.index)}


def section(world: str, run: dict[str, Any], cells: Cells) -> list[str]:
    """Write what the page says of one world."""
    lines = [
        f"## World `{world}`",
        "",
        f"{run['prompts_per_step']} prompts per step, to {run['target_accuracy']:g} on {run['evaluation_problems']} "
        "problems; a run is given up after the rollouts that are named as not enough. " + measured(cells),
        "",
    ]
    for title, cell in TABLES.items():
        rates = sorted({rate for by_rate in cells.values() for rate in by_rate})
        rows = [[arm, *(cell(cells, arm, rate) for rate in rates)] for arm in cells]
        kept = [row for row in rows if any(row[1:])]
        if kept:
            lines += [f"### {title}", "", table_of(["arm", *map(rate_text, rates)], kept), ""]
    return lines


def measured(cells: Cells) -> str:
    """Say after how many steps each arm's accuracy was measured, and by how many rollouts that can overstate a cost."""
    arms: dict[int, list[str]] = {}
    for arm, by_rate in cells.items():
        run = next(iter(by_rate.values()))[0]["run"]
        arms.setdefault(run["evaluate_every"], []).append(arm)
    parts = [
        f"every {steps} steps ({'; '.join(names)}), which can overstate what an arm needs by "
        f"{(steps - 1) * run['prompts_per_step']} rollouts, and by those of a validation in between"
        if steps > 1
        else f"every step ({'; '.join(names)})"
        for steps, names in sorted(arms.items())
    ]
    text = f"Accuracy was measured after {'; after '.join(parts)}."
    uneven = (
        " Ratios of what an arm that is measured less often needs to what another needs can be too large by as much."
    )
    return text + uneven * (len(arms) > 1)


ORDER = ["vanilla"] + [
    f"{way}, {preset}" for preset in ("paper", "line_search") for way in ("product", "separate", "folded")
]


def arm_of(record: Record) -> str:
    run = record["run"]
    return "vanilla" if run["acceleration"] == "none" else f"{run['extrapolated']}, {run['acceleration']}"


def cost_of(quantity: str, spec: str) -> Callable[[Cells, str, float], str]:
    def cell(cells: Cells, arm: str, rate: float) -> str:
        return median_cost(costs(cells[arm][rate], quantity)).format(spec) if rate in cells[arm] else ""

    return cell


def ratio_to(slower: Callable[[str], str]) -> Callable[[Cells, str, float], str]:
    """How many times fewer rollouts an arm needs than another at the same rate."""

    def cell(cells: Cells, arm: str, rate: float) -> str:
        groups = [cells.get(each, {}).get(rate) for each in (slower(arm), arm)]
        if slower(arm) == arm or not all(groups):
            return ""
        pair = of_the_same_seeds([group for group in groups if group])
        return median_cost_ratio(*(costs(each, "rollouts") for each in pair)).format(".2f") if pair else ""

    return cell


def share_lost(cells: Cells, arm: str, rate: float) -> str:
    """Median, over the jumps taken after a run's first, of the share of the jump by which its product is off."""
    found = [
        share
        for record in cells[arm].get(rate, [])
        for trigger in [each for each in record["candidates"] if each["accepted_scale"]][1:]
        for scale, _, share in trigger["tried"]
        if scale == trigger["accepted_scale"] and share is not None
    ]
    return f"{statistics.median(found):.3f} [{min(found):.3f}, {max(found):.3f}], {len(found)}" if found else ""


def accuracy(cells: Cells, arm: str, rate: float) -> str:
    found = [record["final_accuracy"] for record in cells[arm].get(rate, [])]
    return f"{statistics.median(found):.3f} [{min(found):.3f}, {max(found):.3f}]" if found else ""


TABLES: dict[str, Callable[[Cells, str, float], str]] = {
    "Rollouts to the target": cost_of("rollouts", ",.0f"),
    "Rollouts of vanilla at the same rate over the arm's own (above 1: the arm is cheaper)": ratio_to(
        lambda _: "vanilla"
    ),
    "Rollouts of `product` at the same rate over the arm's own": ratio_to(
        lambda arm: arm if arm == "vanilla" else "product, " + arm.split(", ")[1]
    ),
    "CPU seconds to the target": cost_of("cpu_seconds", ",.1f"),
    "Share of the jump by which the product is off (jumps after a run's first: median, range, number)": share_lost,
    "Last measured accuracy": accuracy,
}


def short(record: Record) -> dict[str, Any]:
    """What of a record the JSON keeps."""
    keys = ("steps_to_target", "rollouts_to_target", "cpu_seconds_to_target", "final_accuracy", "num_accepted")
    run = {name: record["run"][name] for name in ("world", "extrapolated", "acceleration", "learning_rate", "seed")}
    return run | {key: record[key] for key in keys} | {"rollouts_spent": record["spent"]["rollouts_to_target"]}
