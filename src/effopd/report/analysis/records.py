"""The records of an analysis (docs/decisions/0006-analysis.md), read and checked."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.parquet

from effopd.errors import DataError

# fmt: off
UPDATE_COLUMNS = (
    "run", "checkpoint", "step", "parameter", "layer", "module", "kind", "rows", "cols", "frobenius_norm",
    "base_norm", "changed_fraction", "spectral_norm", "spectral_to_frobenius", "effective_rank",
    "top1pct_norm_ratio", "rank", "relative_error", "route", "displacement_norm", "displacement_cosine",
    "vector_alignment", "first_vector_cosine", "subspace_alignment", "chance_alignment", "trajectory_evr",
)
# fmt: on
OPTIONAL_FILES = {
    "trajectories": ("run", "parameter", "checkpoint", "step", "pc1", "pc2", "tsne1", "tsne2"),
    "embeddings": (
        "run",
        "checkpoint",
        "step",
        "parameter",
        "num_tokens",
        "num_undefined",
        "mean",
        "p05",
        "median",
        "p95",
    ),
    "embedding_tokens": (
        "run",
        "parameter",
        "token_id",
        "token",
        "cosine",
        "base_x",
        "base_y",
        "trained_x",
        "trained_y",
    ),
}
_TEXT = {"run", "parameter", "module", "kind", "route", "token"}
_INDEX = re.compile(r"\[\d+\]$")
_ROLES = [re.compile(role) for role in ("q(_|$)", "k(_|$)", "v(_|$)", "o(_|$)", "gate", "up", "down")]
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")
_TOWER = r"^((?:visual|vision|image|audio|speech)\w*)\."  # before a module in layers beside the language model's


@dataclass(frozen=True, eq=False)
class Records:
    """An analysis as it was saved.

    Attributes:
        directory: Where it lies.
        analysis: `analysis.json`.
        updates: `updates.parquet`, ordered by run, checkpoint, layer (embeddings first, what else is outside last),
            kind and module, with four more columns: `group`, the module with the numbers of experts taken out;
            `tower`, the stack of layers beside the language model's that it is in, such as `visual`, or nothing;
            `relative_update`, frobenius_norm / base_norm; and `effective_rank_share`, effective_rank / min(rows, cols).
        trajectories: `trajectories.parquet`, its parameters in the order of `updates`; empty if there is none.
        embeddings: `embeddings.parquet`, in the same order, so the embedding table before an output head; empty if
            there is none.
        embedding_tokens: `embedding_tokens.parquet`, in the same order; empty if there is none.
        runs: Names of the runs, in the order of the file.
        absent: Names of the optional files that are not there.
    """

    directory: Path
    analysis: dict[str, Any]
    updates: pd.DataFrame
    trajectories: pd.DataFrame
    embeddings: pd.DataFrame
    embedding_tokens: pd.DataFrame
    runs: tuple[str, ...]
    absent: tuple[str, ...]

    @property
    def matrices(self) -> pd.DataFrame:
        """Rows of attention and MLP matrices with spectral metrics."""
        rows = self.updates
        return rows[rows["kind"].isin(["attention", "mlp"]) & rows["effective_rank"].notna()]

    @property
    def x(self) -> str:
        """The column that orders checkpoints in pictures.

        `step`; or `checkpoint`, where some step is not known or a run's steps do not ascend, as in a list of models.
        """
        steps = self.updates.drop_duplicates(["run", "checkpoint"]).groupby("run")["step"]
        return (
            "step"
            if steps.agg(lambda of: bool((of.diff().iloc[1:] > 0).all() and of.notna().all())).all()
            else "checkpoint"
        )

    @property
    def num_checkpoints(self) -> int:
        """Checkpoints of the run that has most."""
        return int(self.updates.groupby("run")["checkpoint"].nunique().max())


def read_records(directory: Path) -> Records:
    """Read what `effopd analyze` saved.

    Raises:
        DataError: The directory holds no analysis, or a file of it cannot be read or lacks a column.
    """
    for name in ("analysis.json", "updates.parquet"):
        if not (directory / name).is_file():
            raise DataError(
                f"{directory} holds no {name}; expected a directory that `effopd analyze` wrote. "
                "Give that directory, or run the analysis first."
            )
    try:
        analysis = json.loads((directory / "analysis.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{directory / 'analysis.json'} is not JSON ({error}). Run the analysis again.") from error
    if not isinstance(analysis, dict):
        raise DataError(f"{directory / 'analysis.json'} holds no JSON object. Run the analysis again.")
    updates = _read(directory / "updates.parquet", UPDATE_COLUMNS)
    if updates.empty:
        raise DataError(f"{directory / 'updates.parquet'} has no rows: nothing was analysed. Run the analysis again.")
    optional, absent = {}, []
    for name, columns in OPTIONAL_FILES.items():
        path = directory / f"{name}.parquet"
        if path.is_file():
            optional[name] = _read(path, columns)
        else:
            optional[name] = pd.DataFrame({column: _empty(column) for column in columns})
            absent.append(path.name)
    runs = tuple(dict.fromkeys(updates["run"]))
    updates = _prepare(updates, runs)
    order = {name: index for index, name in enumerate(dict.fromkeys(updates["parameter"]))}
    for name, frame in optional.items():
        places = frame["parameter"].map(order).fillna(len(order)).to_numpy(dtype=float)
        optional[name] = frame.iloc[np.argsort(places, kind="stable")]
    return Records(directory, analysis, updates, **optional, runs=runs, absent=tuple(absent))


def last_checkpoints(rows: pd.DataFrame) -> pd.DataFrame:
    """Of each run, the rows of its last checkpoint."""
    return rows[rows["checkpoint"] == rows.groupby("run")["checkpoint"].transform("max")]


def module_group(module: str) -> str:
    """The module's path without the numbers of experts: `mlp.experts.7.up_proj` becomes `mlp.experts.*.up_proj`."""
    return _NUMBER.sub("*", _INDEX.sub("[*]", module))


def _prepare(updates: pd.DataFrame, runs: tuple[str, ...]) -> pd.DataFrame:
    groups = {module: module_group(module) for module in updates["module"].unique()}
    base = updates["base_norm"].where(updates["base_norm"] > 0)
    updates = updates.assign(
        group=updates["module"].map(groups),
        tower=updates["module"].str.extract(_TOWER, expand=False).where(updates["layer"].notna()).fillna(""),
        relative_update=updates["frobenius_norm"] / base,
        effective_rank_share=updates["effective_rank"] / np.minimum(updates["rows"], updates["cols"]),
    )
    keys = {
        "run": updates["run"].map({run: index for index, run in enumerate(runs)}),
        "checkpoint": updates["checkpoint"],
        "layer": updates["layer"].fillna(updates["kind"].map({"embedding": -1.0}).fillna(np.inf)),
        "tower": updates["tower"] != "",
        "kind": updates["kind"].map({"attention": 0, "mlp": 1}).fillna(2),
        "role": updates["group"].map({group: _role(group) for group in groups.values()}),
    }
    # Stable, so that the experts of a module stay in the order of the file.
    return updates.iloc[np.lexsort([key.to_numpy(dtype=float) for key in reversed(keys.values())])]


def _role(group: str) -> int:
    """Place of a module among its siblings: query, key, value, output; gate, up, down; then others by name."""
    name = re.sub(r"\W+$", "", group).rsplit(".", 1)[-1]
    return next((index for index, role in enumerate(_ROLES) if role.match(name)), len(_ROLES))


def _read(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    try:
        table = pyarrow.parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path} is not a Parquet file ({error}). Run the analysis again.") from error
    if missing := [column for column in columns if column not in table.column_names]:
        raise DataError(
            f"{path} lacks the columns {', '.join(missing)}; expected {', '.join(columns)}. "
            "It was written by another version: run the analysis again."
        )
    frame = table.select(list(columns)).to_pandas()
    for column in columns:
        frame[column] = frame[column].astype(object if column in _TEXT else "float64")
    for column in {"checkpoint", "rows", "cols"} & set(columns):
        frame[column] = frame[column].astype("int64")
    return frame


def _empty(column: str) -> Any:
    return np.empty(0, dtype=object if column in _TEXT else np.float64)
