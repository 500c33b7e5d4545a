"""The results of a sweep on disk, by which a second start does only what is left, and one with more to do what is new.

DIR/sweep.json          the specification, its checkpoints, and versions
DIR/results.parquet     a row for each use of each finished cell
DIR/unused.parquet      rows of cells that an earlier specification asked for and this one does not
DIR/cells/*.parquet     rows of cells that were finished since `results.parquet` was last written
DIR/failed.jsonl        cells that failed, with their errors
DIR/completions/KEY.jsonl.gz    completions of a cell, of which a line is an `ExampleRecord`
DIR/problems/DIGEST.jsonl       problems of a task, whose digest is in `sweep.json`
"""

from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa
import pyarrow.parquet as pq

from effopd.errors import DataError
from effopd.files import read_json, read_json_lines, replaced, write_json_lines
from effopd.parameters import ModuleKind
from effopd.run_directory import differing_settings
from effopd.sweeps.cells import REALISED, Cell, SweepPlan, Use
from effopd.sweeps.execute import FinishedCell
from effopd.sweeps.spec import SweepSpec

SWEEP_FILE, RESULTS, UNUSED, CELLS, FAILED = "sweep.json", "results.parquet", "unused.parquet", "cells", "failed.jsonl"
COMPLETIONS, PROBLEMS = "completions", "problems"

_TEXT, _WHOLE, _NUMBER = pa.string(), pa.int64(), pa.float64()
SCHEMA = pa.schema(
    {
        "cell": _TEXT,
        "sweep": _TEXT,
        "run": _TEXT,
        "training_seed": _WHOLE,
        "checkpoint": _WHOLE,
        "step": _WHOLE,
        "kind": _TEXT,
        "value": _NUMBER,
        "x": _NUMBER,
        "task": _TEXT,
        "seed": _WHOLE,
        "num_problems": _WHOLE,
        "mean": _NUMBER,
        "standard_error": _NUMBER,
        "low": _NUMBER,
        "high": _NUMBER,
        "kl_per_token": _NUMBER,
        "kl_low": _NUMBER,
        "kl_high": _NUMBER,
        "kl_per_sequence": _NUMBER,
        "num_tokens": _NUMBER,
        "truncation_rate": _NUMBER,
        "update_norm": _NUMBER,
        "layer_norm": _NUMBER,
        "intended_norm": _NUMBER,
        "relative_error": _NUMBER,
        **{f"{kind}_{column}": _NUMBER for kind in get_args(ModuleKind) for column in REALISED},
        "changed_fraction": _NUMBER,
        "dtype": _TEXT,
        "sampled_by": _TEXT,
        "load_seconds": _NUMBER,
        "seconds": _NUMBER,
        "node": _TEXT,
        "attempt": _WHOLE,
    }
)
_CHOICE = ("sweeps", "runs", "tasks", "seeds", "max_checkpoints", "max_values", "completions")
"""Fields of a specification that say which cells there are, but do not change what comes out of a cell."""
_DEFAULTS = {each.name: each.default for each in fields(SweepSpec) if each.default is not MISSING}
"""Values of fields that the specification of an earlier version did not have."""
_ORDER = [(name, "ascending") for name in ("sweep", "run", "training_seed", "kind", "task", "value", "seed")]


class ResultsDirectory:
    """The rows of a sweep's directory.

    Cells that an earlier plan had done there are taken over: other sweeps, tasks and seeds, and more runs, may be
    wanted of the same models.

    Args:
        directory: Directory of the sweep, which is claimed for this plan already.
        plan: Cells that are to be done.

    Attributes:
        table: Rows that were there at the start.

    Raises:
        DataError: A file in the directory cannot be read.
    """

    def __init__(self, directory: Path, plan: SweepPlan) -> None:
        self.directory = directory
        self._plan = plan
        (directory / CELLS).mkdir(exist_ok=True)
        self.table = self.compact()
        self._done = set(self.table["cell"].to_pylist())
        self._failed: list[dict[str, Any]] = []
        earlier = read_json_lines(directory / FAILED) if (directory / FAILED).exists() else []
        left = {cell.key for cell in plan.cells} - self._done
        self._earlier = {row["cell"]: row for row in earlier if row["cell"] in left}
        self._write_failed()

    def is_done(self, cell: Cell) -> bool:
        """Tell whether the rows of a cell were there at the start."""
        return cell.key in self._done

    def add(self, finished: FinishedCell) -> None:
        """Write the rows of a finished cell, or the error of a failed one, to disk."""
        cell, (measured, error, completions), attempt = finished
        if measured is None:
            self._failed.append({"cell": cell.key, "what": str(cell), "error": error, "attempt": attempt})
        if self._earlier.pop(cell.key, None) or measured is None:
            self._write_failed()
        if measured is None:
            return
        if completions is not None:  # they come first, so that there is no row without them
            with replaced(self.directory / COMPLETIONS / f"{cell.key}.jsonl.gz") as temporary:
                temporary.write_bytes(completions)
        rows = [_row(cell, use, measured, attempt) for use in cell.uses]
        _write(pa.Table.from_pylist(rows, schema=SCHEMA), self.directory / CELLS / f"{cell.key}.parquet")

    def _write_failed(self) -> None:
        """Write the cells that have failed, those of an earlier command included that were not tried again yet."""
        if rows := [*self._earlier.values(), *self._failed]:
            write_json_lines(self.directory / FAILED, rows)
        else:
            (self.directory / FAILED).unlink(missing_ok=True)

    @property
    def failed(self) -> list[dict[str, Any]]:
        """Cells that have failed since the start, each as `cell`, `what`, `error` and `attempt`."""
        return list(self._failed)

    def compact(self) -> pa.Table:
        """Gather the rows of the plan's finished cells in `results.parquet`, and return them."""
        parts = sorted((self.directory / CELLS).glob("*.parquet"))
        whole, unused = self.directory / RESULTS, self.directory / UNUSED
        before = [_read(path) for path in (unused, whole) if path.exists()]
        found = {row["cell"]: row for table in [*before, *map(_read, parts)] for row in table.to_pylist()}
        done = [(cell, found.pop(cell.key)) for cell in self._plan.cells if cell.key in found]
        rows = [_row(cell, use, measured, measured["attempt"]) for cell, measured in done for use in cell.uses]
        if found:
            _write(pa.Table.from_pylist(list(found.values()), schema=SCHEMA), unused)
        table = pa.Table.from_pylist(rows, schema=SCHEMA).sort_by(_ORDER)
        _write(table, whole)
        for part in [*parts, *([] if found else [unused])]:
            part.unlink(missing_ok=True)
        return table


def with_earlier_problems(directory: Path, now: Mapping[str, Any]) -> dict[str, Any]:
    """Add to what a `sweep.json` will hold the digests of tasks of earlier sweeps, whose results are still there."""
    path = directory / SWEEP_FILE
    before = read_json(path).get("problems", {}) if path.exists() else {}
    return {**now, "problems": {**before, **now["problems"]}}


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Describe in what a sweep differs from an earlier one, so that it cannot take over that one's results.

    Args:
        before: Contents of the earlier sweep's `sweep.json`.
        now: What would be written there now.
    """
    spec, earlier = now["spec"], _DEFAULTS | {"dtype": "stored"} | before.get("spec", {})  # "stored" was all at first
    changed = differing_settings(
        {"base": before.get("base")} | {name: earlier.get(name) for name in spec if name not in (*_CHOICE, "base")},
        {"base": now["base"]} | {name: spec[name] for name in spec if name not in (*_CHOICE, "base")},
    )
    files, problems = before.get("files", {}), before.get("problems", {})
    changed += [
        f"{name}, whose files have changed since"
        for name, digest in now["files"].items()
        if files.get(name, digest) != digest
    ]
    changed += [
        f"tasks, as the problems of {name} have changed since"
        for name, digest in now["problems"].items()
        if problems.get(name, digest) != digest
    ]
    for name, checkpoints in before.get("runs", {}).items():
        if name not in now["runs"]:
            changed.append(f"runs, of which {name} is gone")
        elif now["runs"][name][: len(checkpoints)] != checkpoints:  # seeds may be added after those that are there
            changed.append(f"runs, as checkpoints of {name} or their files have changed since")
    return changed


def _row(cell: Cell, use: Use, measured: dict[str, Any], attempt: int) -> dict[str, Any]:
    return {
        **measured,
        "cell": cell.key,
        "sweep": use.sweep,
        "run": cell.run,
        "training_seed": cell.training_seed,
        "checkpoint": cell.checkpoint,
        "step": cell.step,
        "kind": use.kind,
        "value": use.value,
        "x": measured["update_norm"] if use.x == "update_norm" else use.value,
        "task": cell.task,
        "seed": cell.seed,
        "attempt": attempt,
    }


def _read(path: Path) -> pa.Table:
    try:
        return pq.read_table(path, schema=SCHEMA)
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{path} cannot be read ({error}). Remove it: the same command does its cells again."
        ) from error


def _write(table: pa.Table, path: Path) -> None:
    with replaced(path) as temporary:
        pq.write_table(table, temporary)
