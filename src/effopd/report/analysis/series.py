"""What printed and interactive figures draw: the records, summarised over matrices, layers or tokens."""

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from safetensors.numpy import safe_open

from effopd.errors import DataError
from effopd.report.analysis.records import RANKS, AnalysisRecords, last_checkpoints

KINDS = ("attention", "mlp", "embedding", "lm_head", "norm", "other")
MAX_POINTS = 64
TAIL_PERCENTS = (0.1, 0.2, 0.5, 1, 2, 3, 5, 7, 10, 15, 20, 30, 40, 50, 60, 70, 80, 90, 100)
_FEW_EXPERTS = 3


class SampledSpectrum(NamedTuple):
    """Some singular values of the update of one matrix, spaced evenly on a logarithmic axis.

    Attributes:
        run: Name of the run, whose last checkpoint this is.
        parameter: Name of the matrix.
        size: Number of all its singular values.
        indices: int64 [n], the indices i of the chosen singular values, from 1; n is at most `MAX_POINTS`.
        values: float64 [n], the singular values sigma_i themselves.
        tail: float64 [len(TAIL_PERCENTS)], the Frobenius norm of the update without its first p % of the components,
            for each p of `TAIL_PERCENTS`. Of r components, these are ceil(r p / 100), as in the paper's top-1 % ratio;
            r is the rank of the record.
        norm: Frobenius norm of the update.
    """

    run: str
    parameter: str
    size: int
    indices: npt.NDArray[np.int64]
    values: npt.NDArray[np.float64]
    tail: npt.NDArray[np.float64]
    norm: float


def mean_over_training(records: AnalysisRecords, column: str) -> pd.DataFrame:
    """Compute the mean and the quartiles of a metric over attention and MLP matrices, for each checkpoint.

    Args:
        records: The analysis.
        column: Name of the metric's column.

    Returns:
        A row for each run and checkpoint, in order, with the columns run, checkpoint, step, share, matrices (the number
        of matrices that have a value), mean, low and high (the quartiles).
    """
    groups = records.matrices.groupby(["run", "checkpoint"], sort=False)
    frame = groups[column].agg(
        matrices="count", mean="mean", low=lambda x: x.quantile(0.25), high=lambda x: x.quantile(0.75)
    )
    frame[["step", "share"]] = groups[["step", "share"]].first()
    return frame.reset_index()


def alignment_by_rank(records: AnalysisRecords) -> pd.DataFrame:
    """Average the alignment with the last checkpoint over attention and MLP matrices, for each rank.

    Returns:
        A row for each run, rank and checkpoint, in order, with the columns run, checkpoint, step, share, rank, vector
        (the mean of |cos u_k|), subspace (that of the root mean square cosine of the first k vectors), chance_vector
        and chance_subspace (the root mean squares for random ones, sqrt(1 / rows) and sqrt(k / rows)), each averaged
        over the matrices that have the rank, and matrices (their number).
    """
    keys = ["run", "checkpoint", "parameter"]
    rows = records.alignments.merge(records.matrices[[*keys, "rows"]], on=keys)
    order = {run: index for index, run in enumerate(records.runs)}
    found = []
    for rank in RANKS:
        known = rows[rows[f"vector_{rank}"].notna()]
        chance = {"chance_vector": (1 / known["rows"]) ** 0.5, "chance_subspace": (rank / known["rows"]) ** 0.5}
        columns = {"vector": f"vector_{rank}", "subspace": f"subspace_{rank}"} | {name: name for name in chance}
        aggregates = {name: (column, "mean") for name, column in columns.items()}
        groups = known.assign(**chance).groupby(["run", "checkpoint"], sort=False)
        means = groups.agg(step=("step", "first"), share=("share", "first"), matrices=("rows", "size"), **aggregates)
        found.append(means.reset_index().assign(rank=rank))
    table = pd.concat(found, ignore_index=True)
    return table.sort_values(["run", "rank", "checkpoint"], key=lambda c: c.map(order) if c.name == "run" else c)


def norms_over_training(records: AnalysisRecords) -> pd.DataFrame:
    """Compute the Frobenius norm of the update, of all parameters and of those of each kind, for each checkpoint.

    Returns:
        A row for each run, checkpoint and kind, with the columns run, checkpoint, step, share, kind (`all` for all
        parameters), norm, and relative (the norm over that of the base).
    """
    rows = records.updates
    squares = pd.DataFrame(
        {
            **{key: rows[key] for key in ("run", "checkpoint", "step", "share", "kind")},
            "norm": rows["frobenius_norm"] ** 2,
            "base": rows["base_norm"] ** 2,
        }
    )
    squares = pd.concat([squares.assign(kind="all"), squares])
    sums = squares.groupby(["run", "checkpoint", "kind"], sort=False).agg(
        step=("step", "first"), share=("share", "first"), norm=("norm", "sum"), base=("base", "sum")
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
                ranks = zip(rows["parameter"], rows["rank"], strict=True)
                found += [_sample(run, name, file.get_tensor(name), int(rank)) for name, rank in ranks if name in saved]
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


def tail_norms(records: AnalysisRecords, spectra: Sequence[SampledSpectrum]) -> pd.DataFrame:
    """Average the norm that the components after the first p % have, over the `representatives` of each run.

    Returns:
        A row for each run and p, in order, with the columns run, percent; share (of the norm of the update, the mean),
        low and high (its quartiles); and norm (the mean norm itself).
    """
    found = []
    for run in records.runs:
        group = [each for each in spectra if each.run == run]
        if group:
            tails, norms = np.array([each.tail for each in group]), np.array([[each.norm] for each in group])
            low, high = np.quantile(tails / norms, (0.25, 0.75), axis=0)
            columns = {"share": (tails / norms).mean(0), "low": low, "high": high, "norm": tails.mean(0)}
            found.append(pd.DataFrame({"run": run, "percent": TAIL_PERCENTS, **columns}))
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=["run"])


def magnification(tokens: pd.DataFrame) -> int:
    """Choose how many times as long as they are the shifts of tokens are drawn in the plane of principal components.

    Args:
        tokens: Rows of `embedding_tokens` with coordinates.

    Returns:
        1, or a power of 10 that makes the median shift of no run longer than a tenth of the picture; 1 if none moved.
    """
    shifts = np.hypot(tokens["trained_x"] - tokens["base_x"], tokens["trained_y"] - tokens["base_y"])
    longest = shifts.groupby(tokens["run"]).median().max()
    width = max(np.ptp(tokens["base_x"]), np.ptp(tokens["base_y"]))
    return int(10 ** max(math.floor(math.log10(width / 10 / longest)), 0)) if longest > 0 and width > 0 else 1


def _sample(run: str, parameter: str, values: Any, rank: int) -> SampledSpectrum:
    values = np.asarray(values, dtype=np.float64)
    indices = log_spaced(len(values))
    chosen = values[indices - 1] if len(values) else np.empty(0)
    positive = chosen > 0
    # From the smallest on, so that what is small is not lost in what is large.
    squares = np.append(np.cumsum(values[:rank][::-1] ** 2)[::-1], 0.0)
    first = [math.ceil(Fraction(str(percent)) * rank / 100) for percent in TAIL_PERCENTS]
    tail = np.sqrt(squares[first])
    return SampledSpectrum(
        run, parameter, len(values), indices[: len(chosen)][positive], chosen[positive], tail, math.sqrt(squares[0])
    )
