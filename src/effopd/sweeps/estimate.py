"""How much a sweep has before it, and how long that will take, from the cells that are finished."""

from collections.abc import Mapping, Sequence
from typing import Any

from effopd.evaluation.settings import TaskSettings
from effopd.evaluation.task import Task
from effopd.sweeps.cells import Cell


def describe_work(cells: Sequence[Cell], asked: Mapping[str, TaskSettings], tasks: Mapping[str, Task]) -> str:
    """Say how many completions some cells sample, and how long these may be.

    Args:
        cells: Cells that are left.
        asked: How each task is put to a model, by its name.
        tasks: The tasks, by name.
    """
    parts = []
    for name, task in tasks.items():
        count, settings = sum(cell.task == name for cell in cells), asked[name]
        if count:
            each = len(task.prompts) * settings.num_samples
            parts.append(
                f"{count:,} x {each:,} = {count * each:,} completions of {name}, of at most {task.max_new_tokens:,}"
                " tokens each"
            )
    return f"{len(cells):,} cells: {'; '.join(parts)}"


def seconds_left(cells: Sequence[Cell], rows: Sequence[Mapping[str, Any]], workers: int) -> float | None:
    """Estimate how long some cells will take.

    A cell of a task takes as long as the finished cells of that task have on average, without loading; those of other
    tasks count where it has none. A checkpoint is loaded once in each of the two passes (see `Cell.deciding`).

    Args:
        cells: Cells that are left.
        rows: Rows of finished cells, with `cell`, `task`, `seconds` and `load_seconds`.
        workers: Number of cells that are evaluated at a time.

    Returns:
        Seconds; None if no cell is finished.
    """
    finished = {row["cell"]: row for row in rows}.values()
    if not finished:
        return None
    loading = [row["load_seconds"] or 0.0 for row in finished]
    times: dict[str, list[float]] = {}
    for row, load in zip(finished, loading, strict=True):
        times.setdefault(row["task"], []).append(row["seconds"] - load)
    means = {task: sum(each) / len(each) for task, each in times.items()}
    overall = sum(means.values()) / len(means)
    loads = [
        load for load in loading if load > 0.5 * max(loading)
    ]  # a cell of a model that is loaded takes almost none
    num_loads = len({(cell.resident, cell.deciding) for cell in cells})
    total = sum(means.get(cell.task, overall) for cell in cells) + num_loads * sum(loads) / max(len(loads), 1)
    return total / max(1, min(workers, len(cells)))


def readable(seconds: float) -> str:
    """Write a duration with the unit that fits it."""
    for unit, size in (("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} seconds"
