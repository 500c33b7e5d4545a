"""From records and vectors to the tables of an analysis, whose columns docs/analysis.md describes."""

import re
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors import safe_open
from torch import Tensor

from effopd.files import replaced
from effopd.updates.alignments_by_rank import AlignmentsByRank
from effopd.updates.jobs import save_tensors, vectors_file
from effopd.updates.measure import alignments, first_vector_trajectory
from effopd.updates.projection import tsne, tsne_of_authors
from effopd.updates.records import UpdateRecord

Row = dict[str, Any]

_MIN_CHECKPOINTS_FOR_TSNE = 5
_EXPERT = re.compile(r"\[\d+\]$|\.\d+(?=\.)")  # the number of an expert in the name of its module
_TYPES = {int: pa.int64(), float: pa.float64(), str: pa.string()}
_PATH_SCHEMA = pa.schema(
    [("run", pa.string()), ("parameter", pa.string()), ("checkpoint", pa.int64()), ("step", pa.int64())]
    + [(name, pa.float64()) for name in ("pc1", "pc2", "tsne1", "tsne2", "authors_tsne1", "authors_tsne2")]
)


def write_tables(records: Sequence[Row], out: Path) -> None:
    """Write `updates.parquet`, `alignments.parquet`, `trajectories.parquet` and `spectra/`.

    Args:
        records: Records in the order of runs, checkpoints and layers. Their alignments are filled in.
        out: Directory of the analysis, which has the singular vectors.
    """
    paths: list[Row] = []
    pictured = _pictured(records)
    by_rank = AlignmentsByRank()
    for (run, parameter), rows in _matrices(records).items():
        lefts = [_read(out, row, "left") for row in rows]
        for row, aligned in zip(rows, alignments(lefts), strict=True):
            row |= vars(aligned)
        by_rank.add(rows, lefts)
        paths += _trajectory(run, parameter, rows, lefts, parameter in pictured)
    write_table(records, record_schema(), out / "updates.parquet")
    by_rank.write(out / "alignments.parquet")
    write_table(paths, _PATH_SCHEMA, out / "trajectories.parquet")
    for (run, checkpoint), group in groupby(records, key=lambda row: (row["run"], row["checkpoint"])):
        values = {row["parameter"]: _read(out, row, "singular_values") for row in group if row["route"]}
        save_tensors(values, out / "spectra" / run / f"checkpoint-{checkpoint}.safetensors")


def record_schema() -> pa.Schema:
    """Make the schema of `updates.parquet` from the fields of `UpdateRecord`."""
    hints = typing.get_type_hints(UpdateRecord)
    columns = []
    for field in fields(UpdateRecord):
        options = typing.get_args(hints[field.name]) or (hints[field.name],)
        kind = next(option for option in options if option is not types.NoneType)
        columns.append(pa.field(field.name, _TYPES[kind], nullable=types.NoneType in options))
    return pa.schema(columns)


def write_table(rows: Iterable[Mapping[str, Any]], schema: pa.Schema, path: Path) -> None:
    """Write a Parquet file, which is never there in part."""
    with replaced(path) as temporary:
        pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), temporary)


def _matrices(records: Iterable[Row]) -> dict[tuple[str, str], list[Row]]:
    """Group the rows that have a spectrum by run and parameter, in the order of the checkpoints."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in records:
        if row["route"]:
            found.setdefault((row["run"], row["parameter"]), []).append(row)
    return found


def _pictured(records: Iterable[Row]) -> set[str]:
    """Choose the matrices that t-SNE is done for: each in the layers, and of the experts of a module the first."""
    first: dict[tuple[int, str], str] = {}
    for row in records:
        if row["route"] and row["layer"] is not None:
            first.setdefault((row["layer"], _EXPERT.sub("", row["module"])), row["parameter"])
    return set(first.values())


def _trajectory(run: str, parameter: str, rows: list[Row], lefts: list[Tensor], pictured: bool) -> list[Row]:
    """Make the rows of `trajectories.parquet` for one matrix, and fill in `trajectory_evr` of its records."""
    found = first_vector_trajectory(lefts)
    if found is None or len(rows) < 2:
        return []
    path, evr = found
    for row in rows:
        row["trajectory_evr"] = evr
    moves = path.explained_variance_ratio is not None  # of a point, t-SNE would only spread the noise of rounding
    drawn = pictured and moves and len(rows) >= _MIN_CHECKPOINTS_FOR_TSNE
    planes: dict[str, Tensor | None] = {
        "pc": path.coordinates,
        "tsne": tsne(path.aligned) if drawn else None,
        "authors_tsne": tsne_of_authors(path.aligned) if drawn else None,
    }
    return [
        {"run": run, "parameter": parameter, "checkpoint": row["checkpoint"], "step": row["step"]}
        | {
            f"{name}{axis + 1}": None if plane is None else float(plane[index, axis])
            for name, plane in planes.items()
            for axis in (0, 1)
        }
        for index, row in enumerate(rows)
    ]


def _read(out: Path, row: Row, name: str) -> torch.Tensor:
    with safe_open(vectors_file(out, row["run"], row["checkpoint"], row["parameter"]), framework="pt") as file:
        tensor: torch.Tensor = file.get_tensor(name)
    return tensor
