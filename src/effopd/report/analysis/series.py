"""What printed and interactive figures draw: the records, summarised over matrices, layers or tokens."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from safetensors.numpy import safe_open

from effopd.errors import DataError
from effopd.report.analysis.records import AnalysisRecords, last_checkpoints

KINDS = ("attention", "mlp", "embedding", "lm_head", "norm", "other")
MAX_POINTS = 64
_FEW_EXPERTS = 3


class SampledSpectrum(NamedTuple):
    """Some singular values of the update of one matrix, spaced evenly on a logarithmic axis.

    Attributes:
        run: Name of the run, whose last checkpoint this is.
        parameter: Name of the matrix.
        size: Number of all its singular values.
        indices: int64 [n], the indices i of the chosen singular values, from 1; n is at most `MAX_POINTS`.
        values: float64 [n], the singular values sigma_i themselves.
    """

    run: str
    parameter: str
    size: int
    indices: npt.NDArray[np.int64]
    values: npt.NDArray[np.float64]


def mean_over_training(records: AnalysisRecords, column: str) -> pd.DataFrame:
    """Compute the mean and the quartiles of a metric over attention and MLP matrices, for each checkpoint.

    Args:
        records: The analysis.
        column: Name of the metric's column.

    Returns:
        A row for each run and checkpoint, in order, with the columns run, checkpoint, step, matrices (the number of
        matrices that have a value), mean, low and high (the quartiles).
    """
    groups = records.matrices.groupby(["run", "checkpoint"], sort=False)
    frame = groups[column].agg(
        matrices="count", mean="mean", low=lambda x: x.quantile(0.25), high=lambda x: x.quantile(0.75)
    )
    frame["step"] = groups["step"].first()
    return frame.reset_index()


def norms_over_training(records: AnalysisRecords) -> pd.DataFrame:
    """Compute the Frobenius norm of the update, of all parameters and of those of each kind, for each checkpoint.

    Returns:
        A row for each run, checkpoint and kind, with the columns run, checkpoint, step, kind (`all` for all
        parameters), norm, and relative (the norm over that of the base).
    """
    rows = records.updates
    squares = pd.DataFrame(
        {
            **{key: rows[key] for key in ("run", "checkpoint", "step", "kind")},
            "norm": rows["frobenius_norm"] ** 2,
            "base": rows["base_norm"] ** 2,
        }
    )
    squares = pd.concat([squares.assign(kind="all"), squares])
    sums = squares.groupby(["run", "checkpoint", "kind"], sort=False).agg(
        step=("step", "first"), norm=("norm", "sum"), base=("base", "sum")
    )
    sums["relative"] = np.sqrt(sums["norm"] / sums["base"].where(sums["base"] > 0))
    sums["norm"] = np.sqrt(sums["norm"])
    return sums.drop(columns="base").reset_index()


def norms_by_layer(records: AnalysisRecords) -> pd.DataFrame:
    """Compute the Frobenius norm of the update of each layer and kind at each run's last checkpoint.

    Returns:
        A row for each run, layer and kind, with the columns run, layer, kind, and norm (the root of the sum of squares
        over the parameters of that kind in that layer). Layers of another tower than the language model's have the
        name of the tower before their kind: `visual attention`.
    """
    rows = last_checkpoints(records.updates)
    rows = rows[rows["layer"].notna()]
    rows = rows.assign(kind=(rows["tower"] + " " + rows["kind"]).str.strip())
    squares = (rows["frobenius_norm"] ** 2).groupby([rows["run"], rows["layer"], rows["kind"]], sort=False).sum()
    return np.sqrt(squares).rename("norm").reset_index()


def layer_by_module(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    """Average a column over the matrices of each module and layer.

    Returns:
        A row for each module, in the order of the model, and a column for each layer.
    """
    rows = rows[rows["layer"].notna() & rows[column].notna()]
    table = rows.pivot_table(index="group", columns="layer", values=column, aggfunc="mean", sort=False)
    return table.reindex(sorted(table.columns), axis="columns")


def representatives(records: AnalysisRecords) -> pd.DataFrame:
    """Select the matrices that are drawn one by one, as rows of the last checkpoints.

    In a dense model, these are all matrices. Where a layer has more than three matrices of one module, which are
    experts, they are those of lowest, median and highest effective rank in that run.
    """
    rows = last_checkpoints(records.matrices)
    place = rows.groupby(["run", "layer", "group"], dropna=False)["effective_rank"]
    order, size = place.rank(method="first") - 1, place.transform("size")
    return rows[(size <= _FEW_EXPERTS) | order.eq(0) | order.eq(size // 2) | order.eq(size - 1)]


def read_spectra(records: AnalysisRecords) -> list[SampledSpectrum]:
    """Read the singular values of the `representatives`.

    Runs without a file of singular values are left out, and so are updates that are zero.

    Raises:
        DataError: A file cannot be read.
    """
    found = []
    root = (records.directory / "spectra").resolve()
    for (run, checkpoint), rows in representatives(records).groupby(["run", "checkpoint"], sort=False):
        path = (root / run / f"checkpoint-{checkpoint}.safetensors").resolve()
        if not path.is_relative_to(root) or not path.is_file():
            continue
        try:
            with safe_open(path, framework="numpy") as file:
                saved = set(file.keys())
                names = [name for name in rows["parameter"] if name in saved]
                found += [_sample(run, name, file.get_tensor(name)) for name in names]
        except Exception as error:  # the exception of safetensors has no public base class
            raise DataError(f"{path} cannot be read as spectra ({error}). Run the analysis again.") from error
    return [spectrum for spectrum in found if len(spectrum.values)]


def log_spaced(size: int, points: int = MAX_POINTS) -> npt.NDArray[np.int64]:
    """Choose at most `points` indices from 1 to `size`, both included, spaced evenly on a logarithmic axis."""
    return np.unique(np.geomspace(1, max(size, 1), points).round().astype(np.int64))


def histogram(values: pd.Series, edges: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Compute the share of the values in each bin.

    Args:
        values: Values; those that are NaN do not count.
        edges: float64 [bins + 1], the edges of the bins.

    Returns:
        float64 [bins], the shares, in [0, 1].
    """
    counts, _ = np.histogram(values.dropna(), edges)
    return np.asarray(counts / max(counts.sum(), 1), dtype=np.float64)


def cosine_edges(cosines: pd.Series, bins: int = 48) -> npt.NDArray[np.float64]:
    """Compute the edges of the bins that all runs share, from the smallest cosine to 1: float64 [bins + 1]."""
    low = float(cosines.min()) if cosines.notna().any() else 0.0
    return np.linspace(min(low, 1 - 1e-6), 1.0, bins + 1)


def _sample(run: str, parameter: str, values: Any) -> SampledSpectrum:
    indices = log_spaced(len(values))
    chosen = np.asarray(values, dtype=np.float64)[indices - 1] if len(values) else np.empty(0)
    positive = chosen > 0
    return SampledSpectrum(run, parameter, len(values), indices[: len(chosen)][positive], chosen[positive])
