"""The two pages that `grid.py` writes from its summary: `grid.md` with every number, and the page for practitioners."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from grid_goals import MET, MISSED, STATEMENTS
from run_records import Record, estimate, rate_text, table_of

MANY_SEEDS = 3  # from which on an interval is written


def shown(value: dict[str, float | None] | None, seeds: int, spec: str = ",.0f") -> str:
    """A median with its interval, if there are enough seeds for one."""
    return estimate(value).format(spec, interval=seeds >= MANY_SEEDS) if value else ""


def times(value: dict[str, float | None], seeds: int) -> str:
    """A ratio of costs, theirs over ours, in words: `2.10 times fewer [1.80, 2.40]`, `1.30 times as many`."""
    found = estimate(value)
    bounds = found.at_least, found.at_most, found.low, found.high
    word = "fewer"
    if found.at_most < 1:
        word = "as many"
        low, high, first, last = (1 / bound if bound else math.inf for bound in bounds)
        bounds = high, low, last, first
    low, high, first, last = bounds
    if math.isinf(high):
        text = f"over {number(low)} times {word}" if low >= 1 else "not decided: runs were given up"
    else:
        text = f"{number(low)} times {word}" if low == high else f"{number(low)} to {number(high)} times {word}"
    if seeds < MANY_SEEDS or (math.isinf(high) and low < 1):
        return text
    return f"{text} [{number(first)}, {'no bound' if math.isinf(last) else number(last)}]"


def number(value: float) -> str:
    """A ratio with three digits or so."""
    return f"{value:,.0f}" if value >= 20 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def place(cell: Sequence[float]) -> str:
    """A cell in words."""
    return f"{rate_text(cell[0])} with {cell[1]:,} prompts"


def grid_page(summary: Record) -> str:
    """The report with every number."""
    parts = [
        "# Cost over learning rate, prompts per step and worlds",
        f"Made by `{summary['command']}`; `benchmarks/grid.yaml` says what was run and what was cut.",
        *([summary["note"]] if summary["note"] else []),
        _what_is_counted(summary),
        "## Goals",
        _goals(summary),
        "## Tuning",
        _tuning(summary),
    ]
    for world in summary["worlds"]:
        name = world["world"]
        rows = [row for row in summary["cells"] if row["world"] == name]
        parts += [
            f"## World `{name}`, target {world['target']:g}",
            f"![Rollouts to the target](grid-{name}.png)",
            "The frame marks a method's best cell, among those with enough seeds for a goal where there are any. Grey "
            "cells were not run.",
            _cells(rows),
        ]
    versions = ", ".join(f"{name} {value}" for name, value in summary["versions"].items())
    return "\n\n".join([*parts, f"Versions: {versions}."]) + "\n"


def _what_is_counted(summary: Record) -> str:
    settings = summary["settings"]
    after = settings["after_target"]
    return "\n".join(
        [
            "- A number is a median over seeds, with its 95 % bootstrap interval from three seeds on. Of five seeds "
            "that is their range, which covers the true median 94 times in 100; of three, 75 times. A number without "
            "an interval is of one or two seeds.",
            "- Rollouts are all completions sampled for training and for judging candidates. Seconds are CPU seconds "
            "of one thread. Measuring accuracy is in neither.",
            f"- Accuracy is that of one sampled answer to each of {settings['evaluation_problems']} problems. It is "
            "measured after every step to step 16, then at 16 steps in each doubling, and whenever a step's rollouts "
            "come within 0.04 of the target. So runs with few prompts per step are measured more often per rollout.",
            "- `> N`: given up, or diverged, before the target. A run that diverged counts as more than the limit.",
            f"- After the target a run goes on for {after['times']} times the rollouts that it took, but for at least "
            f"{after['at_least']:,} and at most {after['at_most']:,}. Then its accuracy on "
            f"{settings['final_problems']:,} other problems and its reverse KL to the teacher on its own answers are "
            "measured. `failed` counts runs that diverged, did not arrive, or were measured more than "
            f"{settings['fall']:g} below the target afterwards.",
            "- Second skill: what the base can do and training does not practise. Lost is the base's accuracy there "
            "less that of the run at the target; the KL to the base is in nats per token. A run that is far above the "
            "target when it is first measured there may have forgotten more for that.",
        ]
    )


def _statements(summary: Record) -> dict[str, str]:
    """The goals in words, with the method's name."""
    return {goal: text.replace("the method", summary["method"]["label"]) for goal, text in STATEMENTS.items()}


def _goals(summary: Record) -> str:
    statements = "\n".join(f"- **{goal}** {text}" for goal, text in _statements(summary).items())
    rows = [
        [row["goal"], row["world"], row["outcome"], row["found"], row["needed"], row["by"]] for row in summary["goals"]
    ]
    return f"A cell that a goal speaks of needs {summary['seeds_for_a_goal']} seeds.\n\n{statements}\n\n" + table_of(
        ["goal", "world", "outcome", "found", "needed", "by"], rows
    )


def _tuning(summary: Record) -> str:
    rows = [
        [
            row["world"],
            row["label"],
            f"{shown(row['default_rollouts'], row['default_seeds'])} ({place(row['default'])})"
            if row["default_rollouts"]
            else "",
            f"{shown(row['best_rollouts'], row['best_seeds'])} ({place(row['best'])})" if "best" in row else "",
            f"{row['search_rollouts']:,}" if "search_rollouts" in row else "",
            f"{row['search_with_early_stopping']:,}" if "search_with_early_stopping" in row else "",
            f"{row['cells_run']} of {row['cells']}",
        ]
        for row in summary["tuning"]
    ]
    return (
        "Rollouts that a user pays: who takes the default cell; who knows the best cell already; and who tries every "
        "cell of the method's grid once, to the target or until the run is given up. The last but one column is a "
        "search that gives up every run once it has spent what the best one needs, which nobody knows beforehand. "
        "Grids of different size are not comparable.\n\n"
        + table_of(
            ["world", "method", "no tuning", "best cell", "whole grid", "grid, given up early", "cells run"], rows
        )
    )


def _cells(rows: Iterable[Record]) -> str:
    def optional(value: float | None, spec: str) -> str:
        return "" if value is None else f"{value:{spec}}"

    spent, body = ("rollouts", "steps", "generated_tokens", "teacher_tokens", "cpu_seconds"), []
    for row in rows:
        seeds = len(row["seeds"])
        body.append(
            [
                row["label"],
                rate_text(row["learning_rate"]),
                f"{row['prompts_per_step']:,}",
                str(seeds),
                *(shown(row[name], seeds) for name in spent),
                f"{row['num_failed']}",
                optional(row["accuracy_at_target"], ".3f"),
                optional(row["lowest_after_target"], ".3f"),
                optional(row["final_accuracy"], ".3f"),
                optional(row["final_reverse_kl_per_token"], ".4f"),
                optional(row["second_skill_lost"], ".3f"),
                optional(row["second_skill_kl"], ".4f"),
            ]
        )
    header = ["method", "rate", "prompts", "seeds", "rollouts", "steps", "generated tokens", "teacher tokens"]
    header += ["CPU seconds", "failed", "at target", "lowest afterwards", "final accuracy", "KL to teacher"]
    header += ["second skill lost", "KL to base"]
    return table_of(header, body)


def help_page(summary: Record) -> str:
    """The page that a practitioner reads in a minute. It says what the records say, and nothing else."""
    label = summary["method"]["label"]
    worlds = [world["world"] for world in summary["worlds"]]
    # Vanilla's default cell alone would flatter the method.
    with_best = {row["world"] for row in summary["comparisons"] if row["situation"] == "best"}
    summary = summary | {
        part: [row for row in summary[part] if row["world"] in with_best] for part in ("comparisons", "tuning")
    }
    parts = [
        f"# When does {label} help?",
        f"Made from the records of `{summary['command']}` (`--report-only` writes it anew), on small embedded worlds "
        "([world.md](world.md)), to a target accuracy. All numbers: [grid.md](../benchmarks/results/grid.md).",
        *([summary["note"]] if summary["note"] else []),
        *_in_short(summary, label),
    ]
    for quantity, title in (("rollouts", "Rollouts"), ("cpu_seconds", "CPU seconds")):
        if table := _situations(summary, worlds, quantity):
            parts += [f"## {title}, against vanilla OPD", f"{label.capitalize()} in its default cell needs", table]
    parts += _where_time_is_saved(summary, worlds, label)
    parts += [
        "## What was aimed at, and what was found",
        _outcomes(summary, worlds),
        "The goals were set for medians, before the runs: **met** means that the median meets the goal, in each of its "
        "cases; the number is that of the case nearest to missing it. Where a 95 % interval reaches across what is "
        "needed, other seeds may give another outcome.",
    ]
    return "\n\n".join(parts) + "\n"


def _in_short(summary: Record, label: str) -> Iterable[str]:
    """Where it needs fewer rollouts than vanilla at its best, and for each world the medians that a user compares."""
    lines, against = [], _against_best(summary)
    if against:
        yield f"In its default cell, against vanilla OPD in its best cell, {label} needs {against}."
    for row in summary["tuning"]:
        vanilla = row["method"] == "vanilla"
        if row["method"] not in ("vanilla", summary["method"]["name"]) or not row["default_rollouts"]:
            continue
        who = "vanilla OPD" if vanilla else label
        text = f"- `{row['world']}`: {who} takes {shown(row['default_rollouts'], row['default_seeds'])} rollouts"
        text += f" without tuning ({place(row['default'])})"
        if vanilla and "best" in row:
            text += (
                f", {shown(row['best_rollouts'], row['best_seeds'])} in the best of {row['cells']} cells "
                f"({place(row['best'])}), and {row['search_rollouts']:,} to try all of them"
            )
        lines.append(f"{text}.")
    if lines:
        yield "\n".join(lines)


def _against_best(summary: Record) -> str:
    """In which worlds the default cell needs fewer, more, or about as many rollouts as vanilla's best cell."""
    worlds: dict[str, list[str]] = {"fewer rollouts": [], "more rollouts": [], "not clearly more or fewer": []}
    for row in summary["comparisons"]:
        if row["situation"] == "best" and "rollouts" in row:
            found = estimate(row["rollouts"])
            outcome = "fewer rollouts" if found.low > 1 else "more rollouts" if found.high < 1 else [*worlds][-1]
            worlds[outcome].append(f"`{row['world']}`")
    return "; ".join(f"{outcome} in {', '.join(names)}" for outcome, names in worlds.items() if names)


def _situations(summary: Record, worlds: Sequence[str], quantity: str) -> str:
    """A table of what a user would do otherwise against worlds; empty if nothing is compared."""
    found = {
        (row["situation"], row["world"]): times(row[quantity], row["seeds"])
        for row in summary["comparisons"]
        if quantity in row
    }
    if quantity == "rollouts":
        found |= {("search", world): text for world, text in _searches(summary)}
    texts = {
        "default": "vanilla's default cell",
        "best": "vanilla's best cell, if you know it",
        "search": "trying vanilla's whole grid once",
        "lowest": "vanilla at the lowest rate compared, both with as many prompts",
    }
    rows = [
        [text, *(found.get((situation, world), "not measured yet") for world in worlds)]
        for situation, text in texts.items()
        if any(key[0] == situation for key in found)
    ]
    return table_of(["than", *(f"`{world}`" for world in worlds)], rows) if rows else ""


def _where_time_is_saved(summary: Record, worlds: Sequence[str], label: str) -> Iterable[str]:
    """From which share of sampling on the method also arrives sooner, as a table; nothing if that is not known."""
    found = {(row["prompts_per_step"], row["world"]): row for row in summary["break_even"]}
    if not found:
        return
    rows = []
    for prompts in dict.fromkeys(key[0] for key in found):
        text = f"vanilla at its best rate, both with {prompts} prompts" if prompts else "vanilla's best cell"
        rows.append([text, *(_share(found.get((prompts, world))) for world in worlds)])
    yield (
        f"{label.capitalize()} trains several times as long on a completion (passes over it, the optimizer, scoring), "
        "and it needs fewer. So it saves time where sampling is what takes long. **Share of vanilla OPD's time that "
        "sampling and the teacher must take for both to arrive at once**; in brackets what they take here, and how "
        f"many times as long {label} trains on a completion:"
    )
    yield table_of(["against", *(f"`{world}`" for world in worlds)], rows)
    yield (
        f"This is arithmetic, with time in proportion to completions, and {label} at its default rate. What your share "
        "is stands in `seconds` of a run's `metrics.jsonl`."
    )


def _share(row: Record | None) -> str:
    if row is None:
        return "not known"
    return f"{row['needed']:.0%} ({row['here']:.0%}, {row['training_factor']:.1f} times)"


def _searches(summary: Record) -> Iterable[tuple[str, str]]:
    """For each world, vanilla's search of its grid over the method's default cell."""
    rows = {(row["world"], row["method"]): row for row in summary["tuning"]}
    for (world, method), row in rows.items():
        vanilla: dict[str, Any] = rows.get((world, "vanilla"), {})
        if method != summary["method"]["name"] or "search_rollouts" not in vanilla or not row["default_rollouts"]:
            continue
        ours = estimate(row["default_rollouts"])
        if ours.is_exact:
            text = f"{number(vanilla['search_rollouts'] / ours.at_least)} times fewer"
            if "search_with_early_stopping" in vanilla:
                early = number(vanilla["search_with_early_stopping"] / ours.at_least)
                text += f" ({early} times, if every run is given up at the cost of the best)"
            yield world, text


def _outcomes(summary: Record, worlds: Sequence[str]) -> str:
    by_goal = {(row["goal"], row["world"]): row for row in summary["goals"]}

    def cell(goal: str, world: str) -> str:
        row = by_goal[goal, world]
        if row["outcome"] not in (MET, MISSED):
            return str(row["outcome"])
        if row["interval"]:
            return f"**{row['outcome']}** ({row['interval']})"
        return f"**{row['outcome']}**{' by ' if row['by'] else ''}{row['by']}"

    rows = [[text, *(cell(goal, world) for world in worlds)] for goal, text in _statements(summary).items()]
    return table_of(["goal", *(f"`{world}`" for world in worlds)], rows)
