"""The tables of an analysis. The note below each one says what is averaged over what."""

import json
import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from effopd.errors import listing
from effopd.report.analysis.records import AnalysisRecords, last_checkpoints
from effopd.report.analysis.stored_precision import stored_table
from effopd.report.table import NONE, Table, number

SPECTRAL = (
    ("spectral_norm", "spectral norm", 1.0),
    ("spectral_to_frobenius", "spectral / Frobenius, %", 100.0),
    ("effective_rank", "effective rank", 1.0),
    ("top1pct_norm_ratio", "top-1 % ratio, %", 100.0),
    ("rank", "rank", 1.0),
    ("frobenius_norm", "Frobenius norm", 1.0),
)
SPREAD = "mean ± sample standard deviation (not the error of the mean)"
# Keys of analysis.json whose lists say what was left out.
_LEFT_OUT = ("ignored", "skipped", "unknown", "unmatched", "missing", "notes", "warnings")


def make_tables(records: AnalysisRecords) -> dict[str, Table]:
    """Make all tables, by key, in the order in which they are written."""
    tables = (
        _spectral_table(records),
        _spectral_by_kind(records),
        _norm_table(records),
        _alignment_table(records),
        _module_table(records),
        stored_table(records),
        _embedding_table(records),
        _unknown_table(records),
    )
    return {table.key: table for table in tables}


def tables_markdown(tables: Mapping[str, Table]) -> str:
    """Write all tables into one Markdown text."""
    return "# Tables of the analysis\n\n" + "\n".join(table.markdown() for table in tables.values())


def _spread(values: pd.Series, scale: float = 1.0) -> str:
    """Write the mean ± the sample standard deviation.

    A deviation that is smaller than the last printed decimal of the mean is written as a zero with as many decimals.
    """
    values = values.dropna() * scale
    if values.empty:
        return NONE
    mean, deviation = number(values.mean()), values.std(ddof=1)
    if len(values) < 2:
        return mean
    decimals = len(mean.partition(".")[2])
    if mean != "0" and "e" not in mean and deviation < 0.5 * 10.0**-decimals:
        return f"{mean} ± {0:.{decimals}f}"
    return f"{mean} ± {number(deviation, 3)}"


def _spectral_cells(rows: pd.DataFrame) -> tuple[str, ...]:
    zeros = int((rows["frobenius_norm"] == 0).sum())
    return (_step(rows), str(len(rows)), str(zeros), *(_spread(rows[key], scale) for key, _, scale in SPECTRAL))


_SPECTRAL_HEADER = ("step", "matrices", "unmoved", *(label for _, label, _ in SPECTRAL))
_NO_MATRICES = (
    "No attention or MLP matrix is known in these models. The table of what is not known, below, lists their "
    "parameters."
)
_ZEROS = (
    "Unmoved matrices are exactly as in the base. They count with 0 in ranks and norms, and are left out of the two "
    "ratios."
)


def _spectral_table(records: AnalysisRecords) -> Table:
    rows = last_checkpoints(records.matrices)
    cells = tuple((run, *_spectral_cells(group)) for run, group in rows.groupby("run", sort=False))
    note = (
        f"Each number is the {SPREAD} over the attention and MLP matrices of all layers at the run's last checkpoint. "
        f"Each matrix counts once. {_ZEROS}"
    )
    title = "Concentration of the update (the paper's Table 1)"
    return Table("spectral", title, note if cells else _NO_MATRICES, ("run", *_SPECTRAL_HEADER), cells)


def _spectral_by_kind(records: AnalysisRecords) -> Table:
    rows = last_checkpoints(records.matrices)
    cells = tuple(
        (run, kind, *_spectral_cells(group[group["kind"] == kind]))
        for run, group in rows.groupby("run", sort=False)
        for kind in ("attention", "mlp")
        if (group["kind"] == kind).any()
    )
    note = (
        f"Each number is the {SPREAD} over the matrices of one kind of all layers at the run's last checkpoint. Each "
        f"matrix counts once. {_ZEROS}"
    )
    title = "Concentration of the update, by kind of matrix"
    return Table(
        "spectral_by_kind", title, note if cells else _NO_MATRICES, ("run", "kind", *_SPECTRAL_HEADER), cells, 2
    )


def _norm_table(records: AnalysisRecords) -> Table:
    cells = []
    for (run, checkpoint), rows in records.updates.groupby(["run", "checkpoint"], sort=False):
        update, base = _norm(rows["frobenius_norm"]), _norm(rows["base_norm"])
        moved = _norm(rows["displacement_norm"].dropna()) if rows["displacement_norm"].notna().any() else None
        cosine = _spread(rows["displacement_cosine"])
        values = (number(update), number(_ratio(update, base)), number(moved), cosine)
        cells.append((run, str(checkpoint), _step(rows), str(len(rows)), *values))
    note = (
        "Norms are Frobenius norms of all parameters taken together (the root of the sum of squares). The displacement "
        "leads from the checkpoint before to this one. Its cosine with the displacement before it is given as mean ± "
        "sample standard deviation over parameters."
    )
    last = ("‖ΔW‖", "‖ΔW‖ / ‖W base‖", "displacement", "cosine of displacements")
    header = ("run", "checkpoint", "step", "parameters", *last)
    return Table("norms", "Norm of the update over training", note, header, tuple(cells))


def _alignment_table(records: AnalysisRecords) -> Table:
    title = "Alignment with the run's last checkpoint"
    columns = ("vector_alignment", "first_vector_cosine", "subspace_alignment", "chance_alignment")
    header = ("run", "checkpoint", "step", "matrices", "vectors 1..20", "first vector", "subspace", "chance (subspace)")
    if records.num_checkpoints < 2:
        note = "Every run has a single checkpoint, so there is nothing to align."
        return Table("alignment", title, note, header, ())
    cells = []
    for (run, checkpoint), rows in records.matrices.groupby(["run", "checkpoint"], sort=False):
        known = rows[list(columns)].dropna(how="all", subset=list(columns[:3]))
        values = (*(_spread(known[key]) for key in columns[:3]), number(known[columns[3]].mean()))
        cells.append((run, str(checkpoint), _step(rows), str(len(known)), *values))
    note = (
        f"Each number is the {SPREAD} over the attention and MLP matrices that moved. The column of vectors averages "
        "|cos u_k| over as many k as are resolved. The column of the subspace is the root mean square cosine of the "
        "principal angles between the top left subspaces, and the column of chance is what it would be for random "
        "subspaces. The last checkpoint is compared with itself."
    )
    return Table("alignment", title, note, header, tuple(cells))


def _module_table(records: AnalysisRecords) -> Table:
    rows = last_checkpoints(records.updates).copy()
    rows["square"], rows["base_square"] = rows["frobenius_norm"] ** 2, rows["base_norm"] ** 2
    rows["entries"] = rows["rows"] * rows["cols"]
    rows["changed"] = rows["changed_fraction"] * rows["entries"]
    cells = []
    for run, of_run in rows.groupby("run", sort=False):
        keys = ["square", "base_square", "entries", "changed"]
        sums = of_run.groupby(["group", "kind"], sort=False)[keys].sum(min_count=1)
        sums["parameters"] = of_run.groupby(["group", "kind"], sort=False).size()
        sums["relative"] = (sums["square"] / sums["base_square"].where(sums["base_square"] > 0)) ** 0.5
        total = sums["square"].sum()
        for (module, kind), of in sums.sort_values("relative", kind="stable").iterrows():
            share = number(_ratio(100 * of["square"], total), 3)
            changed = number(_ratio(100 * of["changed"], of["entries"]), 3)
            cells.append((run, module, kind, str(int(of["parameters"])), share, number(of["relative"], 3), changed))
    note = (
        "The modules of each run's last checkpoint, with those that moved least first. Modules of the same path are "
        "taken together over layers, and over experts, whose number is written *. The share of ‖ΔW‖² is theirs in the "
        "squared norm of the whole update. Both norms of ‖ΔW‖ / ‖W base‖ are taken over all of them, and so is the "
        "share of entries that changed."
    )
    header = ("run", "module", "kind", "parameters", "share of ‖ΔW‖², %", "‖ΔW‖ / ‖W base‖", "entries changed, %")
    return Table("modules", "What moved and what hardly moved", note, header, tuple(cells), 3)


def _embedding_table(records: AnalysisRecords) -> Table:
    header = ("run", "parameter", "step", "tokens", "without direction", "mean cosine", "p05", "median", "p95")
    title = "Embedding shift"
    if records.embeddings.empty:
        return Table("embeddings", title, "The analysis holds no embedding shift.", header, ())
    rows = last_checkpoints(records.embeddings)
    cells = tuple(
        (
            *(row.run, row.parameter, _count(row.step), _count(row.num_tokens), _count(row.num_undefined)),
            *(number(value) for value in (row.mean, row.p05, row.median, row.p95)),
        )
        for row in rows.itertuples(index=False)
    )
    note = (
        "The cosine between a token's embedding in the base and at each run's last checkpoint: its mean and quantiles "
        "over the tokens that were analysed. Each token counts once. Tokens whose row is zero have no direction and "
        "are left out."
    )
    return Table("embeddings", title, note, header, cells, 2)


def _unknown_table(records: AnalysisRecords) -> Table:
    rows = last_checkpoints(records.updates)
    other = sorted(set(rows.loc[rows["kind"] == "other", "parameter"]))
    matrix = rows["kind"].isin(["attention", "mlp"]) & (rows["cols"] > 1)
    bare = sorted(set(rows.loc[matrix & rows["effective_rank"].isna(), "parameter"]))
    unmoved = sorted(set(rows.loc[matrix & (rows["frobenius_norm"] == 0), "parameter"]))
    moved = records.updates.groupby("run", sort=False)["frobenius_norm"].max() > 0
    stepless = list(dict.fromkeys(records.updates.loc[records.updates["step"].isna(), "run"]))
    counts = records.updates.groupby(["run", "checkpoint"]).size()
    uneven = [str(run) for run, of in counts.groupby("run") if of.nunique() > 1]
    found = [
        ("Parameters of unknown kind, which count in norms but are in no spectral table", other),
        ("Attention and MLP matrices without spectral metrics", bare),
        ("Runs whose weights are all those of the base; was the base given as the run?", list(moved.index[~moved])),
        ("Matrices exactly as in the base", unmoved),
        ("Runs with checkpoints of unknown step", stepless),
        ("Runs whose checkpoints differ in the number of parameters", uneven),
        ("Files that the analysis did not write", list(records.absent)),
    ]
    known = [set(names) for _, names in found]
    found += [(what, names) for what, names in _left_out(records.analysis) if set(names) not in known]
    cells = tuple((what, str(len(names)), listing(names, 8)) for what, names in found if names)
    note = (
        "Parameters and matrices are counted in the last checkpoint of each run. A name that occurs in several runs "
        "counts once."
        if cells
        else "Nothing was left out, and nothing is unknown."
    )
    return Table("unknown", "Ignored or not known", note, ("what", "how many", "which"), cells, 3)


def _left_out(value: Any, path: str = "") -> list[tuple[str, list[str]]]:
    """Find the non-empty lists of analysis.json whose key says that something was left out."""
    found = []
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        where = f"{path}.{key}".lstrip(".")
        if key in _LEFT_OUT and inner:
            items = inner if isinstance(inner, list) else [inner]
            found.append((f"analysis.json, {where}", [x if isinstance(x, str) else json.dumps(x) for x in items]))
        else:
            found += _left_out(inner, where)
    return found


def _norm(values: pd.Series) -> float:
    return math.sqrt(float((values**2).sum()))


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _step(rows: pd.DataFrame) -> str:
    return _count(rows["step"].iloc[0])


def _count(value: float) -> str:
    return NONE if value != value else f"{int(value):,}"
