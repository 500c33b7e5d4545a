"""Freezing: parameters of the student that are not trained, by name or because an early checkpoint hardly moved them.

A frozen parameter gets no gradient, has no state in the optimizer, is not extrapolated, and ends with the bits that it
started with.
"""

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from effopd.errors import ConfigurationError, DataError, listing
from effopd.files import read_json, write_json
from effopd.parameters import clean_name, select
from effopd.utility import utilities

logger = logging.getLogger(__name__)

FROZEN = "frozen.json"
LOW_UTILITY = 1.0
"""Utility below which `freeze_like` freezes a parameter, by default: it moved less than the model did on average."""

_EXPERT = re.compile(r"\[\d+\]$")  # of one expert of a stack, which the analysis measures one by one


def early_moves(analysis: Path) -> dict[str, tuple[float, int]]:
    """Read the squared norm of the update and the number of elements of each parameter at the first checkpoint.

    Raises:
        DataError: There is no finished analysis, it cannot be read, or it has several runs.
    """
    path = analysis / "updates.parquet"
    if not path.exists():
        raise DataError(
            f"freeze_like: {analysis} is no finished analysis: it has no {path.name}. Make one of an early checkpoint: "
            "effopd analyze --base BASE --run early=CHECKPOINT --out DIR."
        )
    columns = ["run", "checkpoint", "parameter", "rows", "cols", "frobenius_norm"]
    try:
        rows = pq.read_table(path, columns=columns).to_pylist()
    except pa.ArrowException as error:
        raise DataError(f"freeze_like: {path} cannot be read ({error}). Make the analysis again.") from error
    if len(runs := {row["run"] for row in rows}) != 1:
        raise DataError(f"freeze_like: {analysis} has the runs {', '.join(sorted(runs))}; expected an analysis of one.")
    first = min(row["checkpoint"] for row in rows)
    moves: dict[str, tuple[float, int]] = {}
    for row in rows:
        if row["checkpoint"] == first:
            name = _EXPERT.sub("", row["parameter"])
            square, number = moves.get(name, (0.0, 0))
            moves[name] = square + row["frobenius_norm"] ** 2, number + row["rows"] * row["cols"]
    return moves


def freeze(
    model: torch.nn.Module, patterns: Sequence[str], analysis: str | None = None, threshold: float | None = None
) -> None:
    """Set `requires_grad` of the parameters to be frozen to False.

    A tied parameter is one parameter with two names: it is frozen, in both of its uses, if a pattern matches one of
    them, or if the analysis finds no use of it that is not low-utility.

    Args:
        model: Student, before an optimizer is made for it.
        patterns: What `effopd.parameters.select` takes; a parameter is frozen if one of them selects it.
        analysis: Directory of an analysis whose low-utility parameters are frozen, too.
        threshold: Utility below which that is so; None takes `LOW_UTILITY`.

    Raises:
        ConfigurationError: A pattern matches nothing, or nothing trainable is left.
        DataError: The analysis cannot be used, finds nothing low-utility, or is of another model.
    """
    named = {clean_name(name): each for name, each in model.named_parameters(remove_duplicate=False)}
    names = [name for pattern in patterns for name in select(named, pattern)]
    if analysis is not None:
        names += _low_utility(named, Path(analysis), LOW_UTILITY if threshold is None else threshold)
    for name in names:
        named[name].requires_grad_(False)
    if not any(each.requires_grad for each in named.values()):
        raise ConfigurationError("freeze: all parameters of the student are frozen, so there is nothing to train.")


def _low_utility(named: dict[str, torch.nn.Parameter], analysis: Path, threshold: float) -> list[str]:
    """Find the parameters of a model that an analysis of an early checkpoint of it calls low-utility."""
    moves = early_moves(analysis)
    other = [name for name, (_, number) in moves.items() if name not in named or named[name].numel() != number]
    if other:
        raise DataError(
            f"freeze_like: {analysis} is of another model: the student has no {listing(other, 3)}, or of another size. "
            "Analyse a checkpoint of a run that started from this student."
        )
    if not any(square for square, _ in moves.values()):
        raise DataError(f"freeze_like: {analysis}: no weight of its first checkpoint differs from the base's.")
    found = utilities(moves)
    useful = {id(named[name]) for name, utility in found.items() if utility >= threshold}
    low = [name for name in found if id(named[name]) not in useful]
    if not low:
        raise DataError(
            f"freeze_like: {analysis} has no parameter of a utility below {threshold:g}; the least is "
            f"{min(found.values()):.2g}. Raise freeze_below."
        )
    return low


def note_frozen(model: torch.nn.Module, directory: Path, writes: bool) -> None:
    """Write to a run directory which parameters are frozen, if some are; in one that is continued, compare.

    Args:
        model: Student.
        directory: Run directory.
        writes: Whether this process is the one that writes.

    Raises:
        ConfigurationError: The run started with other parameters frozen, because the analysis has changed since.
    """
    frozen = [name for name, each in model.named_parameters() if not each.requires_grad]
    path = directory / FROZEN
    if path.exists() and (before := read_json(path)["parameters"]) != frozen:
        changed = sorted(set(before) ^ set(frozen))
        raise ConfigurationError(
            f"{directory} holds a run in which other parameters are frozen ({len(changed)} differ, the first is "
            f"{changed[0]}): the analysis of freeze_like has changed since. Choose another directory, or remove it."
        )
    if frozen and writes:
        elements, total = _elements(model)
        write_json(path, {"parameters": frozen, "elements": elements, "elements_of_all": total})
        logger.warning("Frozen: %d parameters, %.1f %% of the weights.", len(frozen), 100 * elements / total)


def savings(model: torch.nn.Module, optimizer: Any) -> dict[str, Any]:
    """Tell what freezing saved in memory, summed over the shards of a sharded model.

    Args:
        model: Student.
        optimizer: Its optimizer after training, or None if this process took no step.

    Returns:
        `frozen`: numbers of frozen `elements` and of `elements_of_all`; `optimizer_bytes` of its state;
        `optimizer_bytes_saved`, what the state of the frozen elements would take at the same rate; and
        `gradient_bytes_saved`. Those of the optimizer are None if it has no state here. Empty if nothing is frozen.
    """
    frozen, total = _elements(model)
    if not frozen:
        return {}
    states = optimizer.state.values() if optimizer is not None else ()
    tensors = [each for state in states for each in state.values() if isinstance(each, torch.Tensor)]
    held = sum(each.numel() * each.element_size() for each in tensors) or None
    saved = None if held is None else round(held * frozen / (total - frozen))
    gradients = sum(each.numel() * each.element_size() for each in model.parameters() if not each.requires_grad)
    found = {"elements": frozen, "elements_of_all": total, "optimizer_bytes": held, "optimizer_bytes_saved": saved}
    return {"frozen": found | {"gradient_bytes_saved": gradients}}


def _elements(model: torch.nn.Module) -> tuple[int, int]:
    """Numbers of frozen and of all elements."""
    sizes = [(each.numel(), each.requires_grad) for each in model.parameters()]
    return sum(number for number, trains in sizes if not trains), sum(number for number, _ in sizes)
