"""What the figures draw, printed or interactive: records grouped over matrices, layers or tokens."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from safetensors.numpy import safe_open

from effopd.errors import DataError
from effopd.report.analysis.records import Records, last_checkpoints

KINDS = ("attention", "mlp", "embedding", "lm_head", "norm", "other")
MAX_POINTS = 64
_FEW = 3


class SampledSpectrum(NamedTuple):
    """Singular values of the update of one matrix, thinned out evenly on a logarithmic axis.

    Attributes:
        run: Of this run's last checkpoint.
        parameter: The matrix.
        size: How many singular values there are.
        indices: Which of them these are, from 1, at most `MAX_POINTS`.
        values: sigma_i.
    """

    run: str
    parameter: str
    size: int
    indices: npt.NDArray[np.int64]
    values: npt.NDArray[np.float64]


def over_training(records: Records, column: str) -> pd.DataFrame:
    """Mean and quartiles over attention and MLP matrices, a row per run and checkpoint, in order.

    Returns:
        Columns run, checkpoint, step, matrices (those with a value), mean, low, high (quartiles).
    """
    groups = records.matrices.groupby(["run", "checkpoint"], sort=False)
    frame = groups[column].agg(
        matrices="count", mean="mean", low=lambda x: x.quantile(0.25), high=lambda x: x.quantile(0.75)
    )
    frame["step"] = groups["step"].first()
    return frame.reset_index()


def update_norms(records: Records) -> pd.DataFrame:
    """Frobenius norm of the update of all parameters, and of those of each kind.

    Returns:
        Columns run, checkpoint, step, kind (`all` for all), norm, relative (to the norm of the base).
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


def layer_norms(records: Records) -> pd.DataFrame:
    """Frobenius norm of the update of each layer and kind at each run's last checkpoint.

    Returns:
        Columns run, layer, kind, norm (root of the sum of squares over the parameters of that kind in that layer).
        Layers of a tower are apart, with its name before the kind: `visual attention`.
    """
    rows = last_checkpoints(records.updates)
    rows = rows[rows["layer"].notna()]
    rows = rows.assign(kind=(rows["tower"] + " " + rows["kind"]).str.strip())
    squares = (rows["frobenius_norm"] ** 2).groupby([rows["run"], rows["layer"], rows["kind"]], sort=False).sum()
    return np.sqrt(squares).rename("norm").reset_index()


def layer_by_module(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    """Mean over the matrices of one module and layer: modules in the order of the model by layers."""
    rows = rows[rows["layer"].notna() & rows[column].notna()]
    table = rows.pivot_table(index="group", columns="layer", values=column, aggfunc="mean", sort=False)
    return table.reindex(sorted(table.columns), axis="columns")


def representatives(records: Records) -> pd.DataFrame:
    """Rows of the last checkpoints' matrices of which a picture of their own is made.

    All of them in a dense model. Where a layer has more than three matrices of one module (experts), those of lowest,
    median and highest effective rank in that run.
    """
    rows = last_checkpoints(records.matrices)
    place = rows.groupby(["run", "layer", "group"], dropna=False)["effective_rank"]
    order, size = place.rank(method="first") - 1, place.transform("size")
    return rows[(size <= _FEW) | order.eq(0) | order.eq(size // 2) | order.eq(size - 1)]


def read_spectra(records: Records) -> list[SampledSpectrum]:
    """Spectra of the `representatives`; none for runs whose file is not there, nor of updates of zeros.

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
        except Exception as error:  # safetensors' own exception has no public base
            raise DataError(f"{path} cannot be read as spectra ({error}). Run the analysis again.") from error
    return [spectrum for spectrum in found if len(spectrum.values)]


def log_spaced(size: int, points: int = MAX_POINTS) -> npt.NDArray[np.int64]:
    """At most so many indices 1..size, evenly on a logarithmic axis, both ends included."""
    return np.unique(np.geomspace(1, max(size, 1), points).round().astype(np.int64))


def histogram(values: pd.Series, edges: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Share of the values in each bin."""
    counts, _ = np.histogram(values.dropna(), edges)
    return np.asarray(counts / max(counts.sum(), 1), dtype=np.float64)


def cosine_edges(cosines: pd.Series, bins: int = 48) -> npt.NDArray[np.float64]:
    """Bins that all runs share: from the smallest cosine to 1."""
    low = float(cosines.min()) if cosines.notna().any() else 0.0
    return np.linspace(min(low, 1 - 1e-6), 1.0, bins + 1)


def _sample(run: str, parameter: str, values: Any) -> SampledSpectrum:
    indices = log_spaced(len(values))
    chosen = np.asarray(values, dtype=np.float64)[indices - 1] if len(values) else np.empty(0)
    positive = chosen > 0
    return SampledSpectrum(run, parameter, len(values), indices[: len(chosen)][positive], chosen[positive])
