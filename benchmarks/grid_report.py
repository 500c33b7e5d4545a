"""From the records of `grid.py` to medians with intervals, goals, Markdown tables and heat maps. No torch."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import median

from grid_figure import heat_maps
from grid_goals import judge_all
from grid_pages import grid_page, help_page
from grid_plan import Cell, Plan, cell_of
from grid_seconds import break_evens
from grid_world import NotMeasuredError, World, accuracy_at_target, failed, forgetting, group
from run_records import Record, costs, of_the_same_seeds, one_row_per_line, versions_of

from effopd.experiments.censored_statistics import CensoredEstimate, median_cost, median_cost_ratio
from effopd.files import finite_or_none, write_text

QUANTITIES = ("rollouts", "steps", "generated_tokens", "teacher_tokens", "seconds", "cpu_seconds")
COMPARED = ("rollouts", "cpu_seconds")


def write_report(
    records: Sequence[Record], plan: Plan, results: Path, page: Path, command: str, note: str = ""
) -> None:
    """Write grid.json, grid.md and a figure for each world to `results`, and the page for practitioners."""
    summary = {"command": command, "note": note, **summarise(records, plan)}
    write_text(results / "grid.json", one_row_per_line(summary))
    write_text(results / "grid.md", grid_page(summary))
    write_text(page, help_page(summary))
    for entry in summary["worlds"]:
        draw(World(entry["world"], group(records, entry["world"]), plan), results / f"grid-{entry['world']}.svg")


def draw(world: World, path: Path) -> None:
    """Draw the heat maps of a world."""
    panels: dict[str, dict[Cell, CensoredEstimate]] = {}
    best: dict[str, Cell | None] = {}
    for method, entry in world.plan.methods.items():
        cells = {cell: runs for (name, cell), runs in world.runs.items() if name == method}
        if cells:
            label = entry["label"]
            panels[label] = {cell: median_cost(costs(runs, "rollouts")) for cell, runs in cells.items()}
            best[label] = world.best_cell(method)
    title = f"Rollouts to accuracy {world.plan.target(world.name):g} in the world {world.name}"
    heat_maps(panels, best, path, title=title)


def summarise(records: Sequence[Record], plan: Plan) -> Record:
    """All numbers of the report, JSON-ready."""
    worlds = [World(name, runs, plan) for name in plan.worlds if (runs := group(records, name))]
    return {
        "method": {"name": (name := plan.goals["method"]), "label": plan.methods[name]["label"]},
        "seeds_for_a_goal": plan.settings["seeds_for_a_goal"],
        "settings": plan.settings,
        "versions": versions_of(records),
        "worlds": [{"world": world.name, "target": plan.target(world.name)} for world in worlds],
        "goals": [{"world": world.name, **verdict._asdict()} for world in worlds for verdict in judge_all(world)],
        "comparisons": [row for world in worlds for row in comparisons(world)],
        "break_even": [row for world in worlds for row in break_evens(world)],
        "tuning": [row for world in worlds for row in tuning(world)],
        "cells": [row for world in worlds for row in cell_rows(world)],
        "runs": [compact(run) for world in worlds for runs in world.runs.values() for run in runs],
    }


def cell_rows(world: World) -> Iterable[Record]:
    """One row for each cell, in the order of the methods in the plan, of rates and of prompts."""
    order = list(world.plan.methods)
    ordered = sorted(world.runs.items(), key=lambda item: (order.index(item[0][0]), item[0][1]))
    for (method, (rate, prompts)), runs in ordered:
        final = [run["final"] for run in runs if run["final"]]
        lowest = [run["after_target"]["lowest_accuracy"] for run in runs if run["after_target"]]
        forgotten = forgetting(runs)
        yield {
            "world": world.name,
            "method": method,
            "label": world.plan.methods[method]["label"],
            "learning_rate": rate,
            "prompts_per_step": prompts,
            "limit": runs[0]["run"]["limit"],
            "seeds": [run["run"]["seed"] for run in runs],
            "num_censored": sum(run["steps_to_target"] is None for run in runs),
            "num_diverged": sum(run["diverged"] for run in runs),
            "num_failed": sum(map(failed, runs)),
            **{name: median_cost(costs(runs, name)).to_json() for name in QUANTITIES},
            "accuracy_at_target": finite_or_none(accuracy_at_target(runs)),
            "num_accepted": median(run["num_accepted"] for run in runs),
            "final_accuracy": median(each["accuracy"] for each in final) if final else None,
            "final_reverse_kl_per_token": median(each["reverse_kl_per_token"] for each in final) if final else None,
            "lowest_after_target": min((each for each in lowest if each is not None), default=None),
            "second_skill_lost": forgotten[0] if forgotten else None,
            "second_skill_kl": forgotten[1] if forgotten else None,
        }


def comparisons(world: World) -> Iterable[Record]:
    """The method in its default cell against what a user would do otherwise: how many times less it costs."""
    plan, method = world.plan, world.method
    default, lowest = plan.default(method), (min(world.rates), plan.default(method)[1])
    situations: dict[str, tuple[Cell, Callable[[str], Sequence[Record] | None]]] = {
        "default": (default, lambda _: world.runs.get(("vanilla", plan.default("vanilla")))),
        "best": (default, lambda quantity: world.best(["vanilla"], quantity)),
        "lowest": (lowest, lambda _: world.runs.get(("vanilla", lowest))),
    }
    for situation, (cell, find) in situations.items():
        ours = world.runs.get((method, cell))
        row: Record = {"world": world.name, "situation": situation, "ours": cell, "theirs": None}
        for quantity in COMPARED:
            try:
                theirs = find(quantity)
            except NotMeasuredError:
                theirs = None
            paired = of_the_same_seeds([theirs, ours]) if theirs and ours else None
            if theirs and paired:
                row["theirs"] = row["theirs"] or cell_of(theirs[0])
                row["seeds"] = len(paired[0])
                row[quantity] = median_cost_ratio(*(costs(runs, quantity) for runs in paired)).to_json()
        if row["theirs"]:
            yield row


def tuning(world: World) -> Iterable[Record]:
    """What each method costs without tuning, in its best cell, and with the search for it with seed 0.

    A run that does not arrive costs what it spent. With early stopping, every run is given up once it has spent what
    the best one needed, which nobody knows beforehand: no search of the whole grid, one cell after another, is cheaper.
    """
    for method in world.plan.methods:
        cells = world.plan.grid(method, world.name)
        firsts = [each[0] for cell in cells if (each := world.runs.get((method, cell))) and each[0]["run"]["seed"] == 0]
        default = world.runs.get((method, world.plan.default(method)))
        if not firsts:
            continue
        row: Record = {"world": world.name, "method": method, "label": world.plan.methods[method]["label"]}
        row |= {"default": world.plan.default(method), "default_seeds": len(default or [])}
        row["default_rollouts"] = median_cost(costs(default, "rollouts")).to_json() if default else None
        row |= {"cells": len(cells), "cells_run": len(firsts)}
        if len(firsts) == len(cells):
            spent = [run["rollouts_to_target"] or run["spent"]["rollouts_to_target"] for run in firsts]
            row["search_rollouts"] = sum(spent)
            arrived = [run["rollouts_to_target"] for run in firsts if run["rollouts_to_target"]]
            if arrived:
                row["search_with_early_stopping"] = sum(min(each, *arrived) for each in spent)
            if best := world.best_cell(method):
                runs = world.runs[method, best]
                row |= {"best": best, "best_rollouts": median_cost(costs(runs, "rollouts")).to_json()}
                row["best_seeds"] = len(runs)
        yield row


def compact(record: Record) -> Record:
    """One run for grid.json."""
    run = record["run"]
    result = {key: run[key] for key in ("world", "method", "learning_rate", "prompts_per_step", "seed")}
    for name in QUANTITIES:
        value = record[f"{name}_to_target"]
        result[name] = round(value, 2) if isinstance(value, float) else value
    if record["steps_to_target"] is None:
        result["spent_rollouts"] = record["spent"]["rollouts_to_target"]
    result |= {key: record[key] for key in ("diverged", "num_accepted", "at_target", "after_target", "final")}
    result["accepted"] = [pair for pair in record["extrapolations"] if pair[1]]
    return result
