"""The records of an analysis (docs/analysis.md): reading, checking and ordering them."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.parquet

from effopd.errors import DataError
from effopd.files import read_json

# fmt: off
UPDATE_COLUMNS = (
    "run", "checkpoint", "step", "parameter", "layer", "module", "kind", "rows", "cols", "frobenius_norm",
    "base_norm", "changed_fraction", "dtype", "rounding_bound", "spectral_norm", "spectral_to_frobenius",
    "effective_rank", "top1pct_norm_ratio", "rank", "relative_error", "route", "displacement_norm",
    "displacement_cosine", "vector_alignment", "first_vector_cosine", "subspace_alignment", "chance_alignment",
    "trajectory_evr",
)
# fmt: on
RANKS = tuple(range(1, 21))
"""The ranks k for which `alignments.parquet` has columns `vector_k` and `subspace_k`."""
OPTIONAL_FILES = {
    "alignments": (
        *("run", "checkpoint", "step", "parameter"),
        *(f"{what}_{rank}" for what in ("vector", "subspace") for rank in RANKS),
    ),
    "trajectories": (
        *("run", "parameter", "checkpoint", "step"),
        *("pc1", "pc2", "tsne1", "tsne2", "authors_tsne1", "authors_tsne2"),
    ),
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
        *("run", "parameter", "token_id", "token", "cosine", "relative_shift"),
        *("base_x", "base_y", "trained_x", "trained_y"),
        *("tsne_base_x", "tsne_base_y", "tsne_trained_x", "tsne_trained_y"),
    ),
}
_TEXT = {"run", "parameter", "module", "kind", "dtype", "route", "token"}
_INDEX = re.compile(r"\[\d+\]$")
_ROLES = [re.compile(role) for role in ("q(_|$)", "k(_|$)", "v(_|$)", "o(_|$)", "gate", "up", "down")]
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")
_TOWER = r"^((?:visual|vision|image|audio|speech)\w*)\."  # how the name of a module begins that is in another tower


@dataclass(frozen=True, eq=False)
class AnalysisRecords:
    """The records of an analysis.

    All but `embedding_tokens` have a column `share`, which is `step` over the step of the run's last checkpoint.

    Attributes:
        directory: Directory of the analysis.
        analysis: Content of `analysis.json`.
        updates: Rows of `updates.parquet`. They are ordered by run, checkpoint, layer, kind and module. Embeddings come
            before the layers, and all other parameters outside the layers come after them. There are four more columns:
            `group`, the module without the numbers of experts; `tower`, the name of the module's stack of layers if
            that is not the language model's, such as `visual`, and otherwise an empty text; `relative_update`, which
            is frobenius_norm / base_norm; and `effective_rank_share`, which is effective_rank / min(rows, cols).
        alignments: Rows of `alignments.parquet`; none if there is no such file.
        trajectories: Rows of `trajectories.parquet`, with the parameters in the order of `updates`; none if there is no
            such file.
        embeddings: Rows of `embeddings.parquet` in the same order, so that the embedding table comes before an output
            head; none if there is no such file.
        embedding_tokens: Rows of `embedding_tokens.parquet` in the same order; none if there is no such file.
        runs: Names of the runs, in the order of the file.
        absent: Names of the optional files that do not exist.
    """

    directory: Path
    analysis: dict[str, Any]
    updates: pd.DataFrame
    alignments: pd.DataFrame
    trajectories: pd.DataFrame
    embeddings: pd.DataFrame
    embedding_tokens: pd.DataFrame
    runs: tuple[str, ...]
    absent: tuple[str, ...]

    @property
    def matrices(self) -> pd.DataFrame:
        """The rows of attention and MLP matrices that have spectral metrics."""
        rows = self.updates
        return rows[rows["kind"].isin(["attention", "mlp"]) & rows["effective_rank"].notna()]

    @property
    def x(self) -> str:
        """The column over which printed figures show training.

        This is `share` if all steps are known and ascend in every run. Otherwise, as for a list of models, it is
        `checkpoint`.
        """
        steps = self.updates.drop_duplicates(["run", "checkpoint"]).groupby("run")["step"]
        ascend = steps.agg(lambda of_run: bool((of_run.diff().iloc[1:] > 0).all() and of_run.notna().all()))
        return "share" if ascend.all() else "checkpoint"

    @property
    def num_checkpoints(self) -> int:
        """The number of checkpoints of the run that has the most."""
        return int(self.updates.groupby("run")["checkpoint"].nunique().max())


def read_analysis(directory: Path) -> AnalysisRecords:
    """Read the records that `effopd analyze` saved.

    Args:
        directory: Directory of the analysis.

    Raises:
        DataError: The directory holds no analysis, or a file of it cannot be read or lacks a column.
    """
    for name in ("analysis.json", "updates.parquet"):
        if not (directory / name).is_file():
            raise DataError(
                f"{directory} holds no {name}; expected a directory that `effopd analyze` wrote. "
                "Give that directory, or run the analysis first."
            )
    analysis = read_json(directory / "analysis.json")
    updates = _read(directory / "updates.parquet", UPDATE_COLUMNS)
    if updates.empty:
        raise DataError(f"{directory / 'updates.parquet'} has no rows: nothing was analysed. Run the analysis again.")
    optional, absent = _read_optional(directory)
    runs = tuple(dict.fromkeys(updates["run"]))
    updates = _prepare(updates, runs)
    last = updates.groupby("run")["step"].max().replace(0, 1)
    order = {name: index for index, name in enumerate(dict.fromkeys(updates["parameter"]))}
    for name, frame in optional.items():
        places = frame["parameter"].map(order).fillna(len(order)).to_numpy(dtype=float)
        optional[name] = _with_share(frame.iloc[np.argsort(places, kind="stable")], last)
    return AnalysisRecords(directory, analysis, _with_share(updates, last), **optional, runs=runs, absent=absent)


def last_checkpoints(rows: pd.DataFrame) -> pd.DataFrame:
    """Select the rows of each run's last checkpoint."""
    return rows[rows["checkpoint"] == rows.groupby("run")["checkpoint"].transform("max")]


def module_group(module: str) -> str:
    """Take the numbers of experts out of a module's path: `mlp.experts.7.up_proj` becomes `mlp.experts.*.up_proj`."""
    return _NUMBER.sub("*", _INDEX.sub("[*]", module))


def _read_optional(directory: Path) -> tuple[dict[str, pd.DataFrame], tuple[str, ...]]:
    """Read the optional files by name, without rows for those that do not exist, whose names are returned too."""
    found, absent = {}, []
    for name, columns in OPTIONAL_FILES.items():
        path = directory / f"{name}.parquet"
        if path.is_file():
            found[name] = _read(path, columns)
        else:
            found[name] = pd.DataFrame({column: _empty(column) for column in columns})
            absent.append(path.name)
    return found, tuple(absent)


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
    # The sort is stable, so that the experts of a module stay in the order of the file.
    return updates.iloc[np.lexsort([key.to_numpy(dtype=float) for key in reversed(keys.values())])]


def _with_share(rows: pd.DataFrame, last: pd.Series) -> pd.DataFrame:
    return rows.assign(share=rows["step"] / rows["run"].map(last)) if "step" in rows else rows


def _role(group: str) -> int:
    """Give a module its place in its layer: query, key, value, output; gate, up, down; then all others."""
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
