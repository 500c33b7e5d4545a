"""The records of `diagnostics.py` as correlations, in JSON and Markdown."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

from diagnostics_run import FALL, NUM_VECTORS, SIGNALS
from diagnostics_statistics import holm, rank_correlation
from run_records import Record, one_row_per_line, rate_text, table_of, versions_of

from effopd.files import write_text

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
            if row["within"] == within and row["signal"] in SIGNALS and row["p_value"] is not None
        ]  # fmt: skip
        for row, adjusted in zip(family, holm([row["p_value"] for row in family]), strict=True):
            row["holm"] = adjusted
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
    summary = {"command": command, "note": note, "versions": versions_of(records), "cells": cells(records)}
    summary["correlations"] = rows
    write_text(results / "diagnostics.json", one_row_per_line(summary))
    write_text(results / "diagnostics.md", markdown(summary))
    print(f"Wrote {results}/diagnostics.json and diagnostics.md.")


def cells(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Outcomes of each world and rate, and how much the signals after a quarter differ between seeds."""
    found = []
    for world, rate in dict.fromkeys((record["run"]["world"], record["run"]["learning_rate"]) for record in records):
        here = [r for r in records if (r["run"]["world"], r["run"]["learning_rate"]) == (world, rate)]
        finals = [record["final_accuracy"] for record in here]
        jumps = {factor: _mean([r["jumped_accuracy"].get(factor) for r in here]) for factor in ("2", "4")}
        found.append(
            {
                "world": world,
                "learning_rate": rate,
                "num_runs": len(here),
                "final_accuracy": [min(finals), fmean(finals), max(finals)],
                "jumped": jumps,
                "num_unstable": sum(record["unstable"] for record in here),
                "num_diverged": sum(record["diverged"] for record in here),
                "signals": {name: _mean([signal_of(record, name, 1) for record in here]) for name in SIGNALS},
            }
        )
    return found


def markdown(summary: Record) -> str:
    """The whole report."""
    rows, number = summary["correlations"], sum(cell["num_runs"] for cell in summary["cells"])
    first = summary["cells"][0]
    parts = [
        "# Do early signals of the update predict how a run ends?",
        f"Made by `{summary['command']}` from {number} runs of vanilla on-policy distillation, from the first of which "
        f"in the table, {first['world']} at {rate_text(first['learning_rate'])}, to the last every cell has its seeds. "
        "Signals are taken after an eighth (1/8) and a quarter (1/4) of a run.",
        summary["note"],
        "## The runs",
        "Final accuracy as mean (smallest to largest over seeds); mean accuracy after the final displacement was "
        f"multiplied by 2 and 4; runs whose accuracy fell by more than {FALL:g} from its best, that of the base "
        "included, or that diverged; and mean signals after a quarter.",
        cells_table(summary["cells"]),
        "## Over all rates",
        "Spearman's rank correlation, with ranks taken within each world, and its 95 % bootstrap interval over runs. "
        "**Bold**: Holm's p value over all signals, steps and outcomes of this section is below 0.05. A signal that "
        "follows the learning rate correlates here with whatever the rate decides. The last lines are no signals of the "
        "update, but what is known without it.",
        correlation_table([row for row in rows if row["within"] == "all rates"]),
        "## Within a rate",
        "The same with ranks taken within each world and rate, so that only runs of different seeds are compared: what "
        "a signal says beyond the learning rate. In parentheses, the runs in cells whose outcomes differ; the others "
        "carry no information.",
        correlation_table([row for row in rows if row["within"] == "within a rate"], numbers=True),
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
                f"{cell['num_unstable']}" + (f" ({cell['num_diverged']} diverged)" if cell["num_diverged"] else ""),
                *(_text(cell["signals"][name]) for name in SIGNALS),
            ]
            for cell in found
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
    text = f"{row['estimate']:+.2f} [{row['low']:+.2f}, {row['high']:+.2f}]"
    text = f"**{text}**" if row.get("holm", 1) < 0.05 else text
    return f"{text} ({row['num_runs']})" if numbers else text


def words(name: str) -> str:
    """The name of a signal in words."""
    return name.replace("top1pct_norm", "top-1 %").replace("_", " ")


def _loss(record: Record, factor: str) -> float | None:
    jumped = record["jumped_accuracy"].get(factor)
    return None if jumped is None else float(record["final_accuracy"] - jumped)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _text(value: float | None) -> str:
    return "none" if value is None else f"{value:.3g}"
