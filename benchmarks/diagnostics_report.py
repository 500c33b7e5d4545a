"""The records of `diagnostics.py` as correlations, in JSON and Markdown."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import asdict
from itertools import accumulate
from pathlib import Path
from statistics import fmean
from typing import Any

from diagnostics_run import FALL, NUM_VECTORS, SIGNALS, known_mean
from diagnostics_statistics import best_threshold, rank_correlation
from run_records import Record, one_row_per_line, rate_text, table_of, versions_of

from effopd.files import write_text
from effopd.study.verdict import holm

FEWEST_RUNS = 10  # for a correlation to be shown and tested
COMPARATORS = ("accuracy", "learning_rate")
OUTCOMES: dict[str, Callable[[Record], float | None]] = {
    "final accuracy": lambda record: float(record["final_accuracy"]),
    "loss at x2": lambda record: _loss(record, "2"),
    "loss at x4": lambda record: _loss(record, "4"),
    "largest fall": lambda record: None if record["diverged"] else float(record["largest_fall"]),
    "unstable": lambda record: float(record["unstable"]),
}
WITHIN: dict[str, Callable[[Record], Hashable]] = {
    "all rates": lambda record: record["run"]["world"],
    "within a rate": lambda record: (record["run"]["world"], record["run"]["learning_rate"]),
}


def correlations(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Correlate every signal at every early step with every outcome, over all rates and within a rate.

    Returns:
        A row for each, with Holm's p value over the signals, steps and outcomes of one kind of group. The comparators,
        which are no signals of the update, are not in that family.
    """
    rows = []
    for within, group in WITHIN.items():
        groups = [group(record) for record in records]
        for share, place in (("1/8", 0), ("1/4", 1)):
            for signal in (*SIGNALS, *COMPARATORS):
                values = [signal_of(record, signal, place) for record in records]
                for outcome, result in OUTCOMES.items():
                    found = rank_correlation(values, [result(record) for record in records], groups)
                    row = {"within": within, "after": share, "signal": signal, "outcome": outcome}
                    rows.append(row | (asdict(found) if found else dict.fromkeys(("estimate", "p_value"))))
    for within in WITHIN:
        family = [
            row for row in rows
            if row["within"] == within and row["signal"] in SIGNALS and row.get("num_runs", 0) >= FEWEST_RUNS
        ]  # fmt: skip
        for place, adjusted in holm({str(place): row["p_value"] for place, row in enumerate(family)}).items():
            family[int(place)]["holm"] = adjusted
    return rows


def signal_of(record: Record, signal: str, place: int) -> float | None:
    """A signal or a comparator of a run after an eighth (place 0) or a quarter (1) of it."""
    run = record["run"]
    step = run["steps"] // (8, 4)[place]
    if signal == "learning_rate":
        return float(run["learning_rate"])
    if signal == "accuracy":
        return next((accuracy for at, accuracy in record["accuracies"] if at == step), None)
    value = record["signals"].get(str(step), {}).get(signal)
    return None if value is None else float(value)


def write_report(records: Sequence[Record], results: Path, command: str, note: str) -> None:
    """Write `diagnostics.json` and `diagnostics.md`."""
    rows = correlations(records)
    run = records[0]["run"]
    summary = {"command": command, "note": note, "steps": run["steps"], "prompts_per_step": run["prompts_per_step"]}
    summary |= {"versions": versions_of(records), "cells": cells(records)}
    summary |= {"thresholds": thresholds(records), "correlations": rows}
    write_text(results / "diagnostics.json", one_row_per_line(summary))
    write_text(results / "diagnostics.md", markdown(summary))
    print(f"Wrote {results}/diagnostics.json and diagnostics.md.")


def thresholds(records: Sequence[Record], chosen_on: str = "style") -> list[dict[str, Any]]:
    """Choose on one world the threshold of each signal, after a quarter, that best tells unstable runs from others.

    Returns:
        For each signal its threshold, and by world how many of the unstable and of the other runs are beyond it.
    """
    worlds = list(dict.fromkeys(record["run"]["world"] for record in records))
    found = []
    for signal in (*SIGNALS, *COMPARATORS):
        known = [(value, record) for record in records if (value := signal_of(record, signal, 1)) is not None]
        own = [(value, record["unstable"]) for value, record in known if record["run"]["world"] == chosen_on]
        if len({value for value, _ in own}) < 2 or len({label for _, label in own}) < 2:
            continue
        threshold, below = best_threshold(*zip(*own, strict=True))
        row: dict[str, Any] = {"signal": signal, "threshold": threshold, "below": below, "worlds": {}}
        for world in worlds:
            for name, label in (("unstable", True), ("stable", False)):
                here = [v for v, r in known if r["run"]["world"] == world and r["unstable"] is label]
                flagged = sum((value < threshold) is below for value in here)
                row["worlds"].setdefault(world, {})[name] = [flagged, len(here)]
        found.append(row)
    return found


def cells(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Outcomes of each world and rate, and how much the signals after a quarter differ between seeds."""
    found = []
    for world, rate in dict.fromkeys((record["run"]["world"], record["run"]["learning_rate"]) for record in records):
        here = [r for r in records if (r["run"]["world"], r["run"]["learning_rate"]) == (world, rate)]
        finals = [record["final_accuracy"] for record in here]
        jumps = {factor: known_mean([r["jumped_accuracy"].get(factor) for r in here]) for factor in ("2", "4")}
        found.append(
            {
                "world": world,
                "learning_rate": rate,
                "num_runs": len(here),
                "final_accuracy": [min(finals), fmean(finals), max(finals)],
                "jumped": jumps,
                "num_unstable": sum(record["unstable"] for record in here),
                "num_fallen_early": sum(_fallen_early(record) for record in here),
                "num_diverged": sum(record["diverged"] for record in here),
                "signals": {name: known_mean([signal_of(record, name, 1) for record in here]) for name in SIGNALS},
            }
        )
    return found


def markdown(summary: Record) -> str:
    """The whole report."""
    rows, number = summary["correlations"], sum(cell["num_runs"] for cell in summary["cells"])
    parts = [
        "# Do early signals of the update predict how a run ends?",
        f"Made by `{summary['command']}` from {number} runs of vanilla on-policy distillation, of "
        f"{summary['steps']} steps of {summary['prompts_per_step']} prompts. Signals are taken after an eighth "
        "(1/8) and a quarter (1/4) of a run.",
        summary["note"],
        "## The runs",
        "Final accuracy as mean (smallest to largest over seeds); mean accuracy after the final displacement was "
        f"multiplied by 2 and 4; runs whose accuracy fell by more than {FALL:g} from its best, that of the base "
        "included, or that diverged, and those among them that had fallen so far by a quarter, where there is nothing "
        "left to predict; and mean signals after a quarter.",
        cells_table(summary["cells"]),
        "## Over all rates",
        "Spearman's rank correlation, with ranks taken within each world, and its 95 % bootstrap interval over runs. "
        "**Bold**: Holm's p value over all signals, steps and outcomes of this section is below 0.05. A signal that "
        "follows the learning rate correlates here with whatever the rate decides. The last lines are no signals of "
        "the update, but what is known without it. Seeds of a rate are much alike, so these intervals say little about "
        "other rates.",
        correlation_table([row for row in rows if row["within"] == "all rates"]),
        "## Within a rate",
        "The same with ranks taken within each world and rate, so that only runs of different seeds are compared: what "
        "a signal says beyond the learning rate. In parentheses, the runs in cells whose outcomes differ; the others "
        f"carry no information, and below {FEWEST_RUNS} no correlation is given.",
        correlation_table([row for row in rows if row["within"] == "within a rate"], numbers=True),
        "## Does a threshold carry over to another world?",
        "The threshold after a quarter that best tells the unstable runs of `style` from the others there, and what it "
        "flags in each world.",
        threshold_table(summary["thresholds"]),
        f"What is correlated with what was decided before the runs; this last table after ten of them, and that "
        f"{FEWEST_RUNS} runs are the fewest after 32.",
        f"Alignments compare the update with that at half the steps; subspaces are those of {NUM_VECTORS} vectors.",
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def cells_table(found: Sequence[Record]) -> str:
    """One line for each world and rate."""
    header = ["world", "rate", "runs", "final accuracy", "x2", "x4", "unstable", *map(words, SIGNALS)]
    return table_of(
        header,
        (
            [
                cell["world"],
                rate_text(cell["learning_rate"]),
                str(cell["num_runs"]),
                "{1:.3f} ({0:.3f} to {2:.3f})".format(*cell["final_accuracy"]),
                *(_text(cell["jumped"][factor]) for factor in ("2", "4")),
                unstable_text(cell),
                *(_text(cell["signals"][name]) for name in SIGNALS),
            ]
            for cell in found
        ),
    )


def unstable_text(cell: Record) -> str:
    """How many runs were unstable, and how many of them by a quarter of the run."""
    text = str(cell["num_unstable"])
    notes = [f"{cell['num_fallen_early']} by 1/4"] * (cell["num_unstable"] > 0)
    notes += [f"{cell['num_diverged']} diverged"] * (cell["num_diverged"] > 0)
    return f"{text} ({', '.join(notes)})" if notes else text


def threshold_table(rows: Sequence[Record]) -> str:
    """One line for each signal: its rule, and how many unstable and stable runs of each world are flagged."""
    if not rows:
        return "No runs of `style` differ."
    worlds = list(rows[0]["worlds"])
    header = ["signal", "flagged if", *(f"{world}: {name}" for world in worlds for name in ("unstable", "stable"))]
    return table_of(
        header,
        (
            [
                words(row["signal"]),
                f"{'<' if row['below'] else '>='} {row['threshold']:.3g}",
                *(
                    "{} of {}".format(*row["worlds"][world][name])
                    for world in worlds
                    for name in ("unstable", "stable")
                ),
            ]
            for row in rows
        ),
    )


def correlation_table(rows: Sequence[Record], *, numbers: bool = False) -> str:
    """One line for each signal and step, one column for each outcome."""
    lines: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row["signal"] == "learning_rate" and (row["after"] == "1/4" or row["within"] != "all rates"):
            continue
        after = "" if row["signal"] == "learning_rate" else row["after"]
        lines.setdefault((words(row["signal"]), after), []).append(correlation_text(row, numbers))
    ordered = sorted(lines.items(), key=lambda item: [*map(words, (*SIGNALS, *COMPARATORS))].index(item[0][0]))
    return table_of(["signal", "after", *OUTCOMES], ([*key, *line] for key, line in ordered))


def correlation_text(row: Record, numbers: bool) -> str:
    """Write a correlation: `-0.62 [-0.80, -0.35] (36)`."""
    if row["estimate"] is None:
        return "none vary"
    if row["num_runs"] < FEWEST_RUNS:
        return f"too few ({row['num_runs']})"
    text = f"{row['estimate']:+.2f} [{row['low']:+.2f}, {row['high']:+.2f}]"
    text = f"**{text}**" if row.get("holm", 1) < 0.05 else text
    return f"{text} ({row['num_runs']})" if numbers else text


def words(name: str) -> str:
    """The name of a signal in words."""
    return name.replace("top1pct_norm", "top-1 %").replace("_", " ")


def _fallen_early(record: Record) -> bool:
    early = [accuracy for step, accuracy in record["accuracies"] if step <= record["run"]["steps"] // 4]
    return max(best - now for best, now in zip(accumulate(early, max), early, strict=True)) > FALL


def _loss(record: Record, factor: str) -> float | None:
    jumped = record["jumped_accuracy"].get(factor)
    return None if jumped is None else float(record["final_accuracy"] - jumped)


def _text(value: float | None) -> str:
    return "none" if value is None else f"{value:.3g}"
