"""The report of `what_to_move.py`: what each arm cost, beside plain distillation, and whether two gains multiply."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from run_records import Record, costs, of_the_same_seeds, one_row_per_line, table_of, versions_of
from scipy.stats import t as student_t

from effopd.experiments.censored_statistics import CensoredEstimate, median_cost, median_cost_ratio
from effopd.files import write_text

PARTS: dict[str, tuple[str, ...]] = {
    "freezing": ("vanilla", "frozen-low", "frozen-random", "frozen-high"),
    "guided": ("vanilla", "paper", "paper-utility", "paper-alignment"),
    "starts": ("vanilla", "paper", "weak-vanilla", "weak-paper", "sft-vanilla", "sft-paper"),
    "multiply": (
        *("vanilla", "passes", "search", "search-passes"),
        *("short", "search-short", "paper", "frozen-low", "paper-frozen-low"),
    ),
}
EARLY = 8  # steps, after which the accuracy of the frozen arms is compared


class Pair(NamedTuple):
    """Two accelerations that may multiply: their names, the quantity, and the arms with none, either, and both."""

    one: str
    other: str
    quantity: str
    arms: tuple[str, str, str, str]


PAIRS = (
    Pair("line search", "four passes", "rollouts", ("vanilla", "search", "passes", "search-passes")),
    Pair("line search", "first 4 tokens only", "rollouts", ("vanilla", "search", "short", "search-short")),
    Pair("line search", "first 4 tokens only", "generated_tokens", ("vanilla", "search", "short", "search-short")),
    Pair("EffOPD (paper)", "frozen low utility", "rollouts", ("vanilla", "paper", "frozen-low", "paper-frozen-low")),
    Pair("EffOPD (paper)", "frozen low utility", "cpu_seconds", ("vanilla", "paper", "frozen-low", "paper-frozen-low")),
)
Arms = dict[str, list[Record]]


def write_report(parts: Mapping[tuple[str, str], Sequence[Record]], results: Path, command: str, note: str) -> None:
    """Write `what_to_move.json` and `.md`, of the records of each world and part."""
    sections: list[str] = []
    pairs: list[dict[str, Any]] = []
    runs: dict[str, Record] = {}
    for (world, part), records in parts.items():
        arms: Arms = {}
        for record in sorted(records, key=lambda record: record["run"]["seed"]):
            arms.setdefault(record["run"]["arm"], []).append(record)
            runs[str(record["run"])] = record
        if len(arms) == 1:  # which parts share
            continue
        found = [each for pair in PAIRS if (each := multiply(arms, pair))] if part == "multiply" else []
        pairs += [{"world": world} | each for each in found]
        sections += section(world, part, arms, found)
    summary = {
        "command": command,
        "note": note,
        "versions": versions_of(list(runs.values())),
        "pairs": pairs,
        "runs": [short(record) for record in runs.values()],
    }
    write_text(results / "what_to_move.json", one_row_per_line(summary))
    head = ["# What to move", "", f"`{command}`. {HOW}", "", *([note, ""] if note else [])]
    write_text(results / "what_to_move.md", "\n".join([*head, *sections]) + "\n")
    print(f"Wrote {results}/what_to_move.json and .md.")


HOW = (
    "Rollouts include those of validation. Medians over the seeds, with their range in brackets; the range of three "
    "runs covers the true median with a probability of 75 %. A ratio is the median of the arm it is compared with over "
    "the arm's own: above 1, the arm is cheaper; its bracket is a bootstrap over pairs of runs of the same seed. CPU "
    "seconds leave out evaluation; the machine was busy with other work."
)
FREEZING = (
    "`frozen-low` freezes the parameters whose utility was below 1 after four steps of a run with seed 100 "
    "(`freeze_like`); the others freeze about as many weights, at random or those of the highest utility. The cost of "
    "these four steps, 256 rollouts, is not in the table."
)
MULTIPLY = (
    "Medians of the cost with neither, A, B and both; the gains, each the median cost with neither over that with it; "
    "and the gain of both over the product of the two, as the geometric mean over seeds with its 95 % interval "
    "(Student's t over the logarithms): 1 means that gains multiply, less that they overlap."
)


def section(world: str, part: str, arms: Arms, pairs: Sequence[dict[str, Any]]) -> list[str]:
    """The tables of a part in a world."""
    run = arms[next(iter(arms))][0]["run"]
    lines = [
        f"## {part.capitalize()}: world `{world}`",
        "",
        f"{run['prompts_per_step']} prompts per step at {run['learning_rate']:g}, to {run['target_accuracy']:g} on "
        f"{run['evaluation_problems']} problems; a run is given up after {run['limit']:,} rollouts.",
        "",
        *([FREEZING, ""] if part == "freezing" else []),
    ]
    columns: dict[str, Sequence[tuple[str, Callable[[Arms, str], str]]]] = {
        "freezing": [
            ("ratio to vanilla", ratio_to("vanilla")),
            (f"accuracy after {EARLY} steps", early_accuracy),
            ("weights frozen", frozen_share),
            ("optimizer state, kB", optimizer_kilobytes),
            ("CPU seconds per step", seconds_per_step),
        ],
        "guided": [("ratio to vanilla", ratio_to("vanilla")), ("ratio to paper", ratio_to("paper")), ("jumps", jumps)],
        "starts": [("target", target), ("accuracy of the start", start), ("ratio to no EffOPD", ratio_to_kin)],
        "multiply": [("ratio to vanilla", ratio_to("vanilla")), ("CPU seconds per step", seconds_per_step)],
    }
    cells = [("rollouts to target", rollouts), *columns[part]]
    rows = [[arm, str(len(arms[arm])), *(cell(arms, arm) for _, cell in cells)] for arm in PARTS[part] if arm in arms]
    lines += [table_of(["arm", "seeds", *(name for name, _ in cells)], rows), ""]
    if pairs:
        header = ["A", "B", "cost", "neither", "A", "B", "both", "gain A", "gain B", "both", "both / (A x B)"]
        rows = [[pair["one"], pair["other"], pair["quantity"], *pair["cells"]] for pair in pairs]
        lines += [MULTIPLY, "", table_of(header, rows), ""]
    return lines


def multiply(arms: Arms, pair: Pair) -> dict[str, Any] | None:
    """Costs and gains of the four arms, and the interaction of the gains; None where an arm has no run yet."""
    groups = of_the_same_seeds([arms[arm] for arm in pair.arms]) if all(arm in arms for arm in pair.arms) else None
    if groups is None:
        return None
    ranges = [costs(group, pair.quantity) for group in groups]
    spec = ",.1f" if pair.quantity == "cpu_seconds" else ",.0f"
    medians = [median_cost(each).format(spec, interval=False) for each in ranges]
    gains = [median_cost_ratio(ranges[0], each).format(".2f", interval=False) for each in ranges[1:]]
    logs = [
        math.log(one) + math.log(other) - math.log(neither) - math.log(both)
        for (neither, _), (one, _), (other, _), (both, _) in zip(*ranges, strict=True)
    ]
    known = all(low == high for each in ranges for low, high in each)
    mean, half = statistics.fmean(logs), math.nan
    if known and len(logs) > 1:
        half = student_t.ppf(0.975, len(logs) - 1) * statistics.stdev(logs) / math.sqrt(len(logs))
    low, high = (None, None) if math.isnan(half) else (math.exp(mean - half), math.exp(mean + half))
    interaction = math.exp(mean) if known else None
    words = "a run is censored" if interaction is None else f"{interaction:.2f}"
    words += f" [{low:.2f}, {high:.2f}]" if low is not None else ""
    return {
        "one": pair.one,
        "other": pair.other,
        "quantity": pair.quantity.replace("_", " "),
        "seeds": len(logs),
        "interaction": interaction,
        "interval": [low, high],
        "cells": [*medians, *gains, words],
    }


def rollouts(arms: Arms, arm: str) -> str:
    return median_cost(costs(arms[arm], "rollouts")).format()


def ratio_to(other: str) -> Callable[[Arms, str], str]:
    return lambda arms, arm: "" if arm == other or other not in arms else ratio(arms[other], arms[arm]).format(".2f")


def ratio(slower: Sequence[Record], faster: Sequence[Record]) -> CensoredEstimate:
    pair = of_the_same_seeds([slower, faster])
    if pair is None:
        return CensoredEstimate(0.0, math.inf, 0.0, math.inf)
    return median_cost_ratio(*(costs(each, "rollouts") for each in pair))


def ratio_to_kin(arms: Arms, arm: str) -> str:
    """Ratio to the arm without EffOPD with the same start and teacher."""
    return ratio_to(arm.replace("paper", "vanilla"))(arms, arm)


def early_accuracy(arms: Arms, arm: str) -> str:
    found = [row[2] for record in arms[arm] for row in record["evaluations"] if row[0] == EARLY]
    return spread(found, ".3f")


def frozen_share(arms: Arms, arm: str) -> str:
    frozen = [record["frozen"] for record in arms[arm] if record["frozen"]]
    return spread([each["elements"] / each["elements_of_all"] for each in frozen], ".2f") if frozen else "0"


def optimizer_kilobytes(arms: Arms, arm: str) -> str:
    frozen = [record["frozen"] for record in arms[arm] if record["frozen"]]
    held = [each["optimizer_bytes"] / 1000 for each in frozen]
    all_of_it = [(each["optimizer_bytes"] + each["optimizer_bytes_saved"]) / 1000 for each in frozen]
    return f"{spread(held, ',.0f')} of {statistics.median(all_of_it):,.0f}" if frozen else "all"


def seconds_per_step(arms: Arms, arm: str) -> str:
    return spread([record["cpu_seconds_per_step"] for record in arms[arm]], ".3f")


def jumps(arms: Arms, arm: str) -> str:
    return spread([record["num_accepted"] for record in arms[arm]], "g")


def target(arms: Arms, arm: str) -> str:
    return f"{arms[arm][0]['run']['target_accuracy']:g}"


def start(arms: Arms, arm: str) -> str:
    made = arms[arm][0]["made"]
    return f"{made['sft']:.3f}" if "sft" in made else "base"


def spread(values: Sequence[float], spec: str) -> str:
    """Median, and the range in brackets if there is one."""
    if not values:
        return "not evaluated"
    low, middle, high = (f"{value:{spec}}" for value in (min(values), statistics.median(values), max(values)))
    return middle if low == high else f"{middle} [{low}, {high}]"


def short(record: Record) -> dict[str, Any]:
    """What of a record the JSON keeps."""
    keys = ("steps_to_target", "rollouts_to_target", "generated_tokens_to_target", "cpu_seconds_to_target")
    kept = {key: record[key] for key in (*keys, "final_accuracy", "cpu_seconds_per_step", "num_accepted", "frozen")}
    return {name: record["run"][name] for name in ("world", "arm", "seed")} | kept
