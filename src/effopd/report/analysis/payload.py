"""The data of the interactive report, as JSON values.

To keep the report small, tables are stored by column, names are replaced by numbers, and numbers are rounded to five
significant digits; cosines to ten, because embeddings may move very little.
"""

import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from effopd.report.analysis.records import AnalysisRecords
from effopd.report.analysis.series import (
    SampledSpectrum,
    alignment_by_rank,
    cosine_edges,
    histogram,
    magnification,
    mean_over_training,
    norms_by_layer,
    norms_over_training,
    representatives,
    tail_norms,
)

MAX_ROWS = 40_000
MAX_TOKENS = 600

# Of each metric: its column, its label, whether it is shown in per cent, and what it is.
METRICS = (
    ("effective_rank", "effective rank", False, "exp of the entropy of the normalised singular values"),
    ("effective_rank_share", "effective rank / size", True, "effective rank over min(rows, columns)"),
    ("spectral_to_frobenius", "spectral / Frobenius", True, "largest singular value over the Frobenius norm"),
    ("top1pct_norm_ratio", "top-1 % ratio", True, "share of the norm in the top 1 % of the singular directions"),
    ("rank", "rank", False, "singular values above rounding"),
    ("frobenius_norm", "‖ΔW‖", False, "Frobenius norm of the update"),
    ("relative_update", "‖ΔW‖ / ‖W‖", True, "norm of the update over that of the base weight"),
    ("spectral_norm", "spectral norm", False, "largest singular value of the update"),
    ("changed_fraction", "entries changed", True, "share of the entries that differ from the base"),
    ("first_vector_cosine", "|cos u₁| with last", False, "first left singular vector, against the last checkpoint"),
    ("vector_alignment", "vector alignment", False, "mean |cos u_k|, k = 1..20, against the last checkpoint"),
    ("subspace_alignment", "subspace alignment", False, "top-20 left subspaces, against the last checkpoint"),
    ("displacement_norm", "displacement", False, "norm of the change since the checkpoint before"),
    ("displacement_cosine", "cosine of displacements", False, "cosine of the displacement with the one before it"),
    ("trajectory_evr", "EVR of u₁", True, "share of the variance of u₁ over training in two principal components"),
    ("relative_error", "relative error", False, "estimated bound on the relative error of the spectral metrics"),
)
_COSINE_DIGITS = 10
_CHANCES = ("chance_vector", "chance_subspace")
_OVER_TRAINING = (
    "spectral_norm",
    "spectral_to_frobenius",
    "effective_rank",
    "top1pct_norm_ratio",
    "vector_alignment",
    "first_vector_cosine",
    "subspace_alignment",
)


def make_payload(records: AnalysisRecords, spectra: Sequence[SampledSpectrum]) -> dict[str, Any]:
    """Make the JSON values of everything that the report's script draws.

    Args:
        records: The analysis.
        spectra: Singular values, as `read_spectra` returns them.

    Returns:
        The values by name. Runs are numbered from 0 in the order of `records.runs`.
    """
    rows, aggregated = _table_rows(records)
    names = _NameNumbers()
    payload = {
        "runs": list(records.runs),
        "checkpoints": _checkpoints(records),
        "x": "optimizer step" if _x(records) == "step" else "checkpoint",
        "metrics": [metric for metric in METRICS if rows[metric[0]].notna().any()],
        "aggregated": aggregated,
        "rows": _table_columns(records, rows),
        "norms": _lines(records, norms_over_training(records), ("norm", "relative"), "kind"),
        "layers": _lines(records, norms_by_layer(records), ("norm",), "kind", x="layer"),
        "training": _over_training(records),
        "ranks": _lines(records, alignment_by_rank(records), ("vector", "subspace", *_CHANCES), "rank"),
        "tails": _lines(
            records,
            tail_norms(records, spectra).assign(all=""),
            ("share", "low", "high", "norm"),
            "all",
            x="percent",
        ),
        "chance": _compact([records.matrices["chance_alignment"].mean()])[0],
        "spectra": [
            {
                **{"run": records.runs.index(each.run), "matrix": names.of(each.parameter), "size": each.size},
                **{"i": each.indices.tolist(), "s": _compact(each.values)},
            }
            for each in spectra
        ],
        "trajectories": _trajectories(records, names),
        "embeddings": _lines(
            records, records.embeddings, ("mean", "p05", "median", "p95"), "parameter", digits=_COSINE_DIGITS
        ),
        "tokens": _tokens(records),
    }
    places = records.updates.drop_duplicates("parameter").set_index("parameter").loc[list(names.numbers)]
    payload["matrices"] = [list(names.numbers), _compact(places["layer"]), list(places["group"]), list(places["kind"])]
    return payload


def script_json(value: Any) -> str:
    """Write JSON that can stand inside a script element: without `<`, `>` and `&`, and in ASCII alone."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


class _NameNumbers:
    """Numbers that stand for names, given out in the order in which the names are first asked for."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}

    def of(self, name: str) -> int:
        return self.numbers.setdefault(name, len(self.numbers))


def _table_rows(records: AnalysisRecords) -> tuple[pd.DataFrame, int | None]:
    """Select the rows of matrices. More than `MAX_ROWS` are averaged over each layer's matrices of one module.

    Returns:
        The rows; and the number of rows that were averaged, None if none were.
    """
    rows = records.updates[records.updates["cols"] > 1]
    if len(rows) <= MAX_ROWS:
        return rows.assign(matrices=1), None
    numbers = [column for column, *_ in METRICS] + ["rows", "cols"]
    groups = rows.groupby(["run", "checkpoint", "layer", "group", "kind"], sort=False, dropna=False)
    means = groups[numbers].mean()
    means["matrices"] = groups.size()
    return means.reset_index().assign(parameter=lambda frame: frame["group"], route=""), len(rows)


def _table_columns(records: AnalysisRecords, rows: pd.DataFrame) -> dict[str, Any]:
    columns: dict[str, Any] = {
        "run": [records.runs.index(run) for run in rows["run"]],
        "checkpoint": rows["checkpoint"].tolist(),
        "layer": _compact(rows["layer"]),
        "matrices": rows["matrices"].tolist(),
    }
    for column in ("parameter", "group", "kind", "route"):
        codes, names = pd.factorize(rows[column].fillna(""))
        columns[column] = {"names": [str(name) for name in names], "codes": codes.tolist()}
    for column in ("rows", "cols", *(column for column, *_ in METRICS)):
        if rows[column].notna().any():
            columns[column] = _compact(rows[column])
    return columns


def _checkpoints(records: AnalysisRecords) -> list[list[list[int | None]]]:
    """List the checkpoints of each run as pairs of their number and their step."""
    steps = records.updates.groupby(["run", "checkpoint"], sort=False)["step"].first()
    return [
        [[int(checkpoint), None if step != step else int(step)] for checkpoint, step in steps[run].items()]
        for run in records.runs
    ]


def _lines(
    records: AnalysisRecords, rows: pd.DataFrame, columns: Sequence[str], by: str, x: str | None = None, digits: int = 5
) -> list[dict[str, Any]]:
    """Split rows into lines, one for each run and each value of the column `by`, in the order of the x axis."""
    lines = []
    for (run, kind), group in rows.groupby(["run", by], sort=False):
        if run in records.runs:
            group = group.sort_values(x or "checkpoint")
            line = {"run": records.runs.index(run), by: kind, "x": _compact(group[x or _x(records)])}
            lines.append(line | {column: _compact(group[column], digits) for column in columns})
    return lines


def _x(records: AnalysisRecords) -> str:
    """Name the column over which interactive figures show training; the page itself makes shares of the steps."""
    return "step" if records.x == "share" else records.x


def _over_training(records: AnalysisRecords) -> dict[str, Any]:
    lines = {}
    for column in _OVER_TRAINING:
        rows = mean_over_training(records, column).assign(all="")
        lines[column] = _lines(records, rows, ("mean", "low", "high", "matrices"), "all")
    return lines


def _trajectories(records: AnalysisRecords, names: _NameNumbers) -> list[dict[str, Any]]:
    """List the trajectories of the `representatives`, and of every matrix that has a t-SNE picture."""
    rows = records.trajectories[records.trajectories["run"].isin(records.runs)]
    rows = rows[rows["parameter"].isin(set(records.updates["parameter"]))]
    chosen = set(representatives(records)["parameter"]) | set(rows.loc[rows["tsne1"].notna(), "parameter"])
    rows = rows[rows["parameter"].isin(chosen) & rows["pc1"].notna()]
    shares = records.updates.groupby(["run", "parameter"])["trajectory_evr"].first()
    found = []
    for (run, parameter), points in rows.groupby(["run", "parameter"], sort=False):
        if len(points) < 3:  # fewer points always lie in a plane
            continue
        points = points.sort_values("checkpoint")
        keys = [f"{plane}{i}" for plane in ("pc", "tsne", "authors_tsne") for i in (1, 2)]
        keys = [key for key in keys if points[key].notna().any()]
        head = {"run": records.runs.index(run), "matrix": names.of(parameter), "x": _compact(points[_x(records)])}
        share = _compact([shares.get((run, parameter), np.nan)])[0]
        found.append({**head, "evr": share, **{key: _compact(points[key]) for key in keys}})
    return found


def _tokens(records: AnalysisRecords) -> list[dict[str, Any]]:
    """List, for each run and parameter, a histogram of all cosines, and the tokens that are drawn in the plane.

    Places after training are given by what they differ in from those in the base.
    """
    found = []
    for parameter, tokens in records.embedding_tokens.groupby("parameter", sort=False):
        edges = cosine_edges(tokens["cosine"])
        shown = tokens.dropna(subset=["base_x", "base_y", "trained_x", "trained_y"])
        factor = magnification(shown)
        for run, rows in tokens.groupby("run", sort=False):
            if run not in records.runs:
                continue
            of_run = shown[shown["run"] == run]
            of_run = of_run.iloc[_evenly(len(of_run), MAX_TOKENS)]
            planes = [plane for plane in ("", "tsne_") if of_run[f"{plane}base_x"].notna().any()]
            places = {
                f"{plane}{axis}": _compact(of_run[f"{plane}base_{axis}"]) for plane in planes for axis in ("x", "y")
            }
            shifts = {
                f"{plane}d{axis}": _compact(of_run[f"{plane}trained_{axis}"] - of_run[f"{plane}base_{axis}"])
                for plane in planes
                for axis in ("x", "y")
            }
            head = {"run": records.runs.index(run), "parameter": parameter, "tokens": len(rows), "factor": factor}
            mean, shift = _compact([rows["cosine"].mean(), rows["relative_shift"].median()], _COSINE_DIGITS)
            found.append(
                {
                    **head,
                    **{"mean": mean, "shift": shift, "edges": _compact(edges, _COSINE_DIGITS)},
                    "share": _compact(histogram(rows["cosine"], edges)),
                    "text": [str(token) for token in of_run["token"]],
                    "id": [int(token) for token in of_run["token_id"]],
                    "cosine": _compact(of_run["cosine"], _COSINE_DIGITS),
                    **places,
                    **shifts,
                }
            )
    return found


def _evenly(size: int, limit: int) -> Any:
    return np.unique(np.linspace(0, size - 1, min(size, limit)).astype(int)) if size else []


def _compact(values: Iterable[Any], digits: int = 5) -> list[float | int | None]:
    """Round numbers to some significant digits. Whole numbers become integers; NaN and infinity become None."""
    return [_short(float(value), digits) for value in values]


def _short(value: float, digits: int) -> float | int | None:
    if not np.isfinite(value):
        return None
    if value == int(value) and abs(value) < 1e9:
        return int(value)
    return float(f"{value:.{digits}g}")
