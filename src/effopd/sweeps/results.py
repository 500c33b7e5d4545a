"""The rows of a sweep on disk, and what makes a second start of the same sweep do only what is left.

DIR/sweep.json          the specification, its checkpoints, versions
DIR/results.parquet     a row for each use of each finished cell
DIR/cells/*.parquet     those of cells finished since `results.parquet` was last written
DIR/failed.jsonl        cells that failed, with their errors
"""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from effopd import __version__
from effopd.errors import CheckpointError, DataError
from effopd.files import read_json, write_json, write_json_lines
from effopd.sweeps.cells import Cell
from effopd.sweeps.execute import Finished

PLAN, RESULTS, CELLS, FAILED = "sweep.json", "results.parquet", "cells", "failed.jsonl"

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
        "truncation_rate": _NUMBER,
        "update_norm": _NUMBER,
        "layer_norm": _NUMBER,
        "seconds": _NUMBER,
        "node": _TEXT,
        "attempt": _WHOLE,
    }
)
_ORDER = [(name, "ascending") for name in ("sweep", "run", "training_seed", "kind", "task", "value", "seed")]


class Results:
    """Rows in a directory.

    Args:
        directory: Of the sweep; made if it is not there.
        identity: What makes the numbers: see `effopd.sweeps.cells.Plan`.

    Raises:
        CheckpointError: The directory holds another sweep, or something else.
        DataError: A file in it cannot be read.
    """

    def __init__(self, directory: Path, identity: dict[str, Any]) -> None:
        self.directory = directory
        path = directory / PLAN
        if path.exists():
            _check_same(path, read_json(path), identity)
        elif directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
            raise CheckpointError(f"{directory} is not empty and holds no sweep. Choose another --out.")
        else:
            write_json(path, {**identity, "versions": {"effopd": __version__}})
        (directory / CELLS).mkdir(exist_ok=True)
        self._failed: list[dict[str, Any]] = []
        (directory / FAILED).unlink(missing_ok=True)
        self._uses = {(row["cell"], row["sweep"], row["kind"], row["value"]) for row in self.compact().to_pylist()}

    def is_done(self, cell: Cell) -> bool:
        """Whether every row of a cell is there."""
        return all((cell.key, use.sweep, use.kind, use.value) in self._uses for use in cell.uses)

    def add(self, finished: Finished) -> None:
        """Keep a finished cell, or note a failed one, at once."""
        cell, (measured, error), attempt = finished
        if measured is None:
            failed = {"cell": cell.key, "what": str(cell), "error": error, "attempt": attempt}
            self._failed.append(failed)
            write_json_lines(self.directory / FAILED, self._failed)
            return
        rows = [row(cell, use, measured, attempt) for use in cell.uses]
        _write(pa.Table.from_pylist(rows, schema=SCHEMA), self.directory / CELLS / f"{cell.key}.parquet")

    @property
    def failed(self) -> list[dict[str, Any]]:
        """Cells that have failed since the start: `cell`, `what`, `error`, `attempt`."""
        return list(self._failed)

    def compact(self) -> pa.Table:
        """Gather all rows in `results.parquet`, and return them."""
        parts = sorted((self.directory / CELLS).glob("*.parquet"))
        whole = self.directory / RESULTS
        tables = [_read(path) for path in ([whole] if whole.exists() else []) + parts]
        rows = {
            (found["cell"], found["sweep"], found["kind"], found["value"]): found
            for table in tables
            for found in table.to_pylist()
        }
        table = pa.Table.from_pylist(list(rows.values()), schema=SCHEMA).sort_by(_ORDER)
        if parts or not whole.exists():
            _write(table, whole)
        for part in parts:
            part.unlink()
        return table


def row(cell: Cell, use: Any, measured: dict[str, Any], attempt: int) -> dict[str, Any]:
    """One row of the results."""
    return {
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
        **measured,
        "attempt": attempt,
    }


def _check_same(path: Path, earlier: dict[str, Any], identity: dict[str, Any]) -> None:
    differing = [
        *(f"{key}" for key in ("base", "runs") if earlier.get(key) != identity[key]),
        *(key for key, value in identity["spec"].items() if earlier.get("spec", {}).get(key) != value),
    ]
    if differing:
        raise CheckpointError(
            f"{path.parent} holds another sweep: it differs in {', '.join(sorted(set(differing)))} (see {path}; "
            "files of a run that have changed since count). Choose another --out, or remove that one."
        )


def _read(path: Path) -> pa.Table:
    try:
        return pq.read_table(path, schema=SCHEMA)
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{path} cannot be read ({error}). Remove it: the same command does its cells again."
        ) from error


def _write(table: pa.Table, path: Path) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    pq.write_table(table, temporary)
    temporary.replace(path)
