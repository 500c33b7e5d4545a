"""From the records of `speedup.py` to medians, intervals, speed-ups, a Markdown table and a figure. No torch."""

import math
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import Any

from run_records import Record, costs, estimate, of_the_same_seeds, one_row_per_line, table_of, versions_of

from effopd.experiments.censored_statistics import largest_cost_ratio, median_cost, median_cost_ratio
from effopd.files import write_text
from effopd.report.curves import CostPoint, cost_figure

Section = tuple[str, int]  # estimator, prompts per step
Cells = dict[tuple[Section, str, float], list[Record]]  # (section, method, learning rate) -> runs

USUAL_STEP = 256
USUAL: Section = ("full_vocab", USUAL_STEP)
QUANTITIES = ("steps", "rollouts", "generated_tokens", "teacher_tokens", "seconds", "cpu_seconds")
SPEEDUPS = ("steps", "rollouts", "generated_tokens", "cpu_seconds")
LABELS = {
    "vanilla": "vanilla OPD",
    "paper": "EffOPD (paper)",
    "reference": "EffOPD (reference)",
    "adaptive": "adaptive",
}


def group(records: Iterable[Record]) -> Cells:
    """Runs by estimator, step size, method and learning rate."""

    def key(record: Record) -> tuple[Section, int, float, int]:
        run = record["run"]
        section = run.get("estimator", USUAL[0]), run["prompts_per_step"]
        return section, list(LABELS).index(run["method"]), run["learning_rate"], run["seed"]

    ordered = sorted(records, key=key)
    return {
        (section, list(LABELS)[method], rate): list(runs)
        for (section, method, rate), runs in groupby(ordered, key=lambda record: key(record)[:3])
    }


def best_learning_rates(records: Iterable[Record], section: Section = USUAL) -> dict[str, float]:
    """Each method's learning rate with the least median rollouts to the target."""
    best: dict[str, tuple[float, float]] = {}
    for (other, method, rate), runs in group(records).items():
        if other == section:
            candidate = (median_cost(costs(runs, "rollouts")).at_least, rate)
            best[method] = min(best.get(method, (math.inf, rate)), candidate)
    return {method: rate for method, (_, rate) in best.items()}


def summarise(records: Sequence[Record]) -> dict[str, Any]:
    """All numbers of the report, JSON-ready."""
    cells = group(records)
    rows = []
    for (section, method, rate), runs in cells.items():
        vanilla_best = best_learning_rates(records, section).get("vanilla")
        row: dict[str, Any] = {
            "method": method,
            "estimator": section[0],
            "learning_rate": rate,
            "prompts_per_step": section[1],
            "limit": runs[0]["run"]["limit"],
            "num_runs": len(runs),
            "num_censored": sum(run["steps_to_target"] is None for run in runs),
            "validation_rollouts": median(run["validation_rollouts"] for run in runs),
            "num_accepted": median(run["num_accepted"] for run in runs),
            "final_accuracy": median(run["final_accuracy"] for run in runs),
        }
        row |= {name: median_cost(costs(runs, name)).to_json() for name in QUANTITIES}
        for key, baseline in (
            ("speedup_at_equal_rate", cells.get((section, "vanilla", rate))),
            ("speedup_against_best_vanilla", cells.get((section, "vanilla", vanilla_best or rate))),
        ):
            paired = of_the_same_seeds([baseline, runs]) if method != "vanilla" and baseline else None
            if paired:
                row[key] = {
                    name: median_cost_ratio(*(costs(group, name) for group in paired)).to_json() for name in SPEEDUPS
                }
        rows.append(row)
    return {
        "target_accuracy": records[0]["run"]["target_accuracy"],
        "evaluation_problems": records[0]["run"]["evaluation_problems"],
        "limit": max(record["run"]["limit"] for record in records),
        "versions": versions_of(records),
        "cells": rows,
        "worst_to_best_rate": _worst_to_best(cells),
        "runs": [_compact(record) for runs in cells.values() for record in runs],
    }


def _worst_to_best(cells: Cells) -> dict[str, Any]:
    """By method: median rollouts at its worst learning rate over those at its best, with the usual step."""
    result = {}
    for method in LABELS:
        by_rate = {rate: runs for (section, name, rate), runs in cells.items() if name == method and section == USUAL}
        if len(by_rate) > 1 and (groups := of_the_same_seeds(list(by_rate.values()))):
            all_costs = [costs(runs, "rollouts") for runs in groups]
            medians = dict(zip(by_rate, (median_cost(each).at_least for each in all_costs), strict=True))
            worst, best = max(medians, key=medians.__getitem__), min(medians, key=medians.__getitem__)
            result[method] = {"worst": worst, "best": best, "ratio": largest_cost_ratio(all_costs, all_costs).to_json()}
    return result


def _compact(record: Record) -> dict[str, Any]:
    run = record["run"]
    keys = ("method", "learning_rate", "prompts_per_step", "seed")
    result: dict[str, Any] = {"estimator": run.get("estimator", USUAL[0])} | {key: run[key] for key in keys}
    for name in QUANTITIES:
        value = record[f"{name}_to_target"]
        result[name] = round(value, 2) if isinstance(value, float) else value
    result |= {key: record[key] for key in ("validation_rollouts", "num_accepted", "final_accuracy")}
    result["accepted"] = [pair for pair in record["extrapolations"] if pair[1]]
    if record["steps_to_target"] is None:
        result["spent_rollouts"] = record["spent"]["rollouts_to_target"]
    return result


def write_report(records: Sequence[Record], directory: Path, command: str, note: str = "") -> None:
    """Write speedup.json, speedup.md, speedup.svg and speedup.png; `note` stands at the head of the Markdown."""
    summary = {"command": command, "note": note, **summarise(records)}
    write_text(directory / "speedup.json", one_row_per_line(summary))
    write_text(directory / "speedup.md", markdown(summary))
    series = {
        LABELS[method]: [
            CostPoint(row["learning_rate"], **vars(estimate(row["rollouts"])))
            for row in summary["cells"]
            if row["method"] == method and (row["estimator"], row["prompts_per_step"]) == USUAL
        ]
        for method in LABELS
    }
    cost_figure(
        {label: points for label, points in series.items() if points},
        directory / "speedup.svg",
        target=summary["target_accuracy"],
        limit=summary["limit"],
    )


def markdown(summary: dict[str, Any]) -> str:
    """The report for people."""
    target, limit = summary["target_accuracy"], summary["limit"]
    parts = [
        f"# Cost of reaching an accuracy of {target:g} on the embedded world",
        f"Made by `{summary['command']}`. Every number is a median over seeds with its 95 % bootstrap interval "
        "(percentile). Of a median of so few that is their range: it covers the true median 94 times in 100 with five "
        "seeds, 75 times with three, and ratios about as often. A ratio is that of the medians; runs of one seed have "
        "the same prompts in the same order, so seeds are resampled together in numerator and denominator.",
        *([summary["note"]] if summary["note"] else []),
        _what_is_counted(summary),
    ]
    for estimator, prompts in sorted({(row["estimator"], row["prompts_per_step"]) for row in summary["cells"]}):
        rows = [row for row in summary["cells"] if (row["estimator"], row["prompts_per_step"]) == (estimator, prompts)]
        parts += [f"## {prompts:,} prompts per step, estimator `{estimator}`", *_tables(rows, limit)]
    if summary["worst_to_best_rate"]:
        parts += ["## Sensitivity to the learning rate", _sensitivity_table(summary["worst_to_best_rate"])]
    versions = ", ".join(f"{name} {value}" for name, value in summary["versions"].items())
    return "\n\n".join([*parts, f"Versions: {versions}."]) + "\n"


def _what_is_counted(summary: dict[str, Any]) -> str:
    return "\n".join(
        [
            "- Rollouts are all completions sampled for training and, with EffOPD, for validating candidates; tokens, "
            "seconds and CPU seconds likewise. Measuring accuracy is not part of the cost.",
            f"- Accuracy is that of one answer sampled at temperature 1 to each of {summary['evaluation_problems']} "
            "fixed problems that are not trained on, with the same random numbers throughout a run; its standard error "
            "at 0.95 is "
            f"{math.sqrt(0.95 * 0.05 / summary['evaluation_problems']):.3f}. The first measurement at or above the "
            "target counts, for all methods.",
            "- It is measured after every step to step 16, then at 16 evenly spaced steps in each doubling, and "
            "besides whenever the rollouts of a step come within 0.04 of the target, and after every accepted "
            "extrapolation.",
            f"- A run that spends {summary['limit']:,} rollouts (with fewer than 256 prompts per step, a tenth) "
            "without reaching the target is censored: its cost is known to be more than what it spent. Medians and "
            f"ratios that depend on it are given as bounds.{_cut(summary)}",
            "- `full_vocab` is the exact reverse KL over the vocabulary, `sampled` the paper's own estimator, a policy "
            "gradient on the sampled log-ratio. Validation samples W_t and every candidate with other random numbers.",
            "- Seeds decide the order of prompts, the sampling and the choice of validation prompts; base, teacher and "
            "problems are the same in all runs.",
            "- Each run had one thread, with two runs at a time on a shared machine. Seconds depend on the machine; "
            "rollouts and tokens only through rounding, which unstable runs (3e-3) make visible.",
        ]
    )


def _cut(summary: dict[str, Any]) -> str:
    """Which cells had to do with fewer rollouts and seeds."""
    cut = [
        f"{LABELS[row['method']]} at {row['learning_rate']:g} ({row['limit']:,} rollouts, {row['num_runs']} seeds)"
        for row in summary["cells"]
        if row["prompts_per_step"] >= USUAL_STEP and row["limit"] < summary["limit"]
    ]
    return f" Cut for time: {', '.join(cut)}." if cut else ""


def _tables(rows: Sequence[Record], limit: int) -> Iterable[str]:
    methods = [method for method in LABELS if any(row["method"] == method for row in rows)]
    rates = sorted({row["learning_rate"] for row in rows})
    by_cell = {(row["method"], row["learning_rate"]): row for row in rows}

    def table(title: str, names: Sequence[str], cell: Any) -> str:
        body = [
            [f"{rate:g}", *(cell(by_cell[name, rate]) if (name, rate) in by_cell else "" for name in names)]
            for rate in rates
        ]
        return f"{title}\n\n" + table_of(["learning rate", *(LABELS[name] for name in names)], body)

    def cost(quantity: str, spec: str = ",.0f") -> Any:
        return lambda row: (
            estimate(row[quantity]).format(spec)
            + (f" ({row['num_censored']} of {row['num_runs']} censored)" if row["num_censored"] else "")
        )

    def speedup(key: str, quantity: str) -> Any:
        return lambda row: estimate(row[key][quantity]).format(".2f") if key in row else ""

    yield table("**Rollouts to the target**", methods, cost("rollouts"))
    yield table("**Optimizer steps to the target**", methods, cost("steps"))
    others = [method for method in methods if method != "vanilla"]
    equal, best = "speedup_at_equal_rate", "speedup_against_best_vanilla"
    yield table("**Speed-up in rollouts at equal learning rate**", others, speedup(equal, "rollouts"))
    yield table("**Speed-up in steps at equal learning rate**", others, speedup(equal, "steps"))
    yield table(
        "**Speed-up in rollouts against vanilla at its own best learning rate** (below 1: slower)",
        others,
        speedup(best, "rollouts"),
    )
    yield table("**Generated tokens to the target**", methods, cost("generated_tokens"))
    yield table("**CPU seconds to the target**", methods, cost("cpu_seconds"))
    yield table(
        "**Of the rollouts, for validation; extrapolations accepted** (medians)",
        others,
        lambda row: f"{row['validation_rollouts']:g}; {row['num_accepted']:g}",
    )


def _sensitivity_table(worst_to_best: dict[str, Any]) -> str:
    rows = [
        [LABELS[method], f"{entry['best']:g}", f"{entry['worst']:g}", estimate(entry["ratio"]).format(".1f")]
        for method, entry in worst_to_best.items()
    ]
    return "Median rollouts at the worst learning rate over those at the best.\n\n" + table_of(
        ["method", "best", "worst", "ratio"], rows
    )
