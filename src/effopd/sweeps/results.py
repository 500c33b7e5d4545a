"""The rows of a sweep on disk, and what makes a second start, or one with more to do, do only what is left.

DIR/sweep.json          the specification, its checkpoints, versions
DIR/results.parquet     a row for each use of each finished cell
DIR/unused.parquet      rows of cells that an earlier specification had, and this one has not
DIR/cells/*.parquet     rows of cells finished since `results.parquet` was last written
DIR/failed.jsonl        cells that failed, with their errors
"""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from effopd import __version__
from effopd.errors import CheckpointError, DataError
from effopd.files import read_json, write_json, write_json_lines
from effopd.sweeps.cells import Cell, Plan
from effopd.sweeps.execute import Finished

PLAN, RESULTS, UNUSED, CELLS, FAILED = "sweep.json", "results.parquet", "unused.parquet", "cells", "failed.jsonl"

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
_CHOICE = ("sweeps", "runs", "tasks", "seeds", "max_checkpoints", "max_values")
"""What of a specification says which cells there are, and not what comes out of them."""
_ORDER = [(name, "ascending") for name in ("sweep", "run", "training_seed", "kind", "task", "value", "seed")]


class Results:
    """Rows in a directory.

    Args:
        directory: Of the sweep; made if it is not there.
        plan: What is to be done. Cells that an earlier plan had done there are taken over, if nothing that makes the
            numbers has changed: other sweeps, tasks and seeds, and more runs, may be wanted of the same models.

    Raises:
        CheckpointError: The directory holds a sweep of other models or settings, or something else.
        DataError: A file in it cannot be read.
    """

    def __init__(self, directory: Path, plan: Plan) -> None:
        self.directory = directory
        self._plan = plan
        path = directory / PLAN
        if path.exists():
            _check_same(path, read_json(path), plan.identity)
        elif directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
            raise CheckpointError(f"{directory} is not empty and holds no sweep. Choose another --out.")
        write_json(path, {**plan.identity, "versions": {"effopd": __version__}})
        (directory / CELLS).mkdir(exist_ok=True)
        self._failed: list[dict[str, Any]] = []
        (directory / FAILED).unlink(missing_ok=True)
        self._done = set(self.compact()["cell"].to_pylist())

    def is_done(self, cell: Cell) -> bool:
        """Whether the rows of a cell were there at the start."""
        return cell.key in self._done

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
        """Gather the rows of the plan in `results.parquet`, and return them."""
        parts = sorted((self.directory / CELLS).glob("*.parquet"))
        whole, unused = self.directory / RESULTS, self.directory / UNUSED
        before = [_read(path) for path in (unused, whole) if path.exists()]
        found = {row["cell"]: row for table in [*before, *map(_read, parts)] for row in table.to_pylist()}
        done = [(cell, found.pop(cell.key)) for cell in self._plan.cells if cell.key in found]
        rows = [row(cell, use, measured, measured["attempt"]) for cell, measured in done for use in cell.uses]
        if found:
            _write(pa.Table.from_pylist(list(found.values()), schema=SCHEMA), unused)
        table = pa.Table.from_pylist(rows, schema=SCHEMA).sort_by(_ORDER)
        _write(table, whole)
        for part in [*parts, *([] if found else [unused])]:
            part.unlink(missing_ok=True)
        return table


def row(cell: Cell, use: Any, measured: dict[str, Any], attempt: int) -> dict[str, Any]:
    """One row of the results."""
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


def _check_same(path: Path, earlier: dict[str, Any], identity: dict[str, Any]) -> None:
    runs = earlier.get("runs", {})
    differing = [
        *(["base"] if earlier.get("base") != identity["base"] else []),
        *(["runs"] if runs != {name: identity["runs"].get(name) for name in runs} else []),
        *(
            key
            for key, value in identity["spec"].items()
            if key not in _CHOICE and earlier.get("spec", {}).get(key) != value
        ),
    ]
    if differing:
        raise CheckpointError(
            f"{path.parent} holds another sweep: it differs in {', '.join(sorted(set(differing)))} (see {path}; "
            "files of a run that have changed since count, and so does a run that is gone). Choose another --out, or "
            "remove that one."
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
