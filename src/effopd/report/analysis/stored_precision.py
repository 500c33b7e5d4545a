"""The table of how much of an update the stored dtype of the checkpoints holds."""

import math

import pandas as pd

from effopd.report.analysis.records import AnalysisRecords, last_checkpoints
from effopd.report.table import Table, number

_HEADER = ("run", "kind", "stored dtype", "entries changed, %", "‖ΔW‖", "rounding / ‖ΔW‖, %")


def stored_table(records: AnalysisRecords) -> Table:
    """Make the table, with a row for all parameters of each run and one for each kind of them."""
    rows = last_checkpoints(records.updates)
    cells = []
    for run, of_run in rows.groupby("run", sort=False):
        cells.append((str(run), "all", *_cells(of_run)))
        cells += [(str(run), str(kind), *_cells(of_kind)) for kind, of_kind in of_run.groupby("kind", sort=False)]
    note = (
        "Each run's last checkpoint as it is stored. The last column bounds what storing has changed: rounding moves a "
        "weight by at most half a unit in its last place, and the norm of all these halves is given as a share of "
        "‖ΔW‖. If it is large, and few entries changed, most of what training did is not in the checkpoint, and much "
        "of what is there is rounding: save checkpoints in float32. A run trained in bf16 without float32 weights has "
        "lost more than that, at every step. An adapter's update is stored by itself."
    )
    return Table("stored", "What the stored dtype holds of the update", note, _HEADER, tuple(cells), 3)


def _cells(rows: pd.DataFrame) -> tuple[str, ...]:
    entries = rows["rows"] * rows["cols"]
    norm, bound = (
        math.sqrt(float((rows[column] ** 2).sum(skipna=False))) for column in ("frobenius_norm", "rounding_bound")
    )
    changed = number(100 * float((rows["changed_fraction"] * entries).sum() / entries.sum()), 3)
    dtypes = ", ".join(sorted(rows["dtype"].dropna().unique()))
    return dtypes, changed, number(norm), number(100 * bound / norm if norm else None, 3)
