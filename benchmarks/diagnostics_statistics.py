"""Rank correlations within groups of runs, with bootstrap intervals over runs and permutation tests within groups."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

Floats = NDArray[np.float64]
NUM_RESAMPLES = 2000
NUM_PERMUTATIONS = 20_000


@dataclass(frozen=True)
class Correlation:
    """A rank correlation over runs.

    Attributes:
        estimate: Spearman's rho with ranks taken within each group, in [-1, 1].
        low: Lower end of the 95 % percentile interval over resampled runs.
        high: Its upper end.
        p_value: Share of permutations of the runs within their groups that give at least as large an absolute value.
        num_runs: Runs in groups in which both quantities vary. The others carry no information.
        num_groups: Such groups.
    """

    estimate: float
    low: float
    high: float
    p_value: float
    num_runs: int
    num_groups: int


def rank_correlation(
    signal: Sequence[float | None], outcome: Sequence[float | None], groups: Sequence[Hashable], seed: int = 0
) -> Correlation | None:
    """Correlate the ranks that runs have within their groups: a partial correlation that only compares runs of a group.

    Args:
        signal: One value per run; None leaves the run out.
        outcome: One value per run; None leaves the run out.
        groups: The group of each run. One group for all gives Spearman's rho.
        seed: Random seed for resamples and permutations.

    Returns:
        The correlation; None if in no group both quantities vary.
    """
    cells: dict[Hashable, list[tuple[float, float]]] = {}
    for value, result, group in zip(signal, outcome, groups, strict=True):
        if value is not None and result is not None:
            cells.setdefault(group, []).append((value, result))
    pairs = [np.array(cell) for cell in cells.values()]
    pairs = [cell for cell in pairs if np.ptp(cell, axis=0).min() > 0]
    if not pairs:
        return None
    rng = np.random.default_rng(seed)
    estimate = float(_correlate(pairs)[0])
    resampled = _correlate([cell[rng.integers(len(cell), size=(NUM_RESAMPLES, len(cell)))] for cell in pairs])
    resampled = resampled[np.isfinite(resampled)]  # in a resample of few runs, nothing may vary
    low, high = np.quantile(resampled, [0.025, 0.975])
    permuted = np.abs(_permuted(pairs, rng))
    p_value = (1 + int((permuted >= abs(estimate) - 1e-12).sum())) / (1 + NUM_PERMUTATIONS)
    return Correlation(estimate, float(low), float(high), p_value, sum(map(len, pairs)), len(pairs))


def best_threshold(values: Sequence[float], positive: Sequence[bool]) -> tuple[float, bool]:
    """Choose the threshold that best tells positive cases from others, by the true less the false positive rate.

    Args:
        values: One per case; at least two differ.
        positive: Which cases are positive: some, and not all.

    Returns:
        The threshold, half-way between two of the values, and whether the positive cases are those below it.
    """
    case, is_positive = np.array(values), np.array(positive)
    ordered = np.unique(case)
    choices = []
    for threshold in (ordered[1:] + ordered[:-1]) / 2:
        flagged = case < threshold
        gain = flagged[is_positive].mean() - flagged[~is_positive].mean()
        choices.append((abs(gain), float(threshold), bool(gain > 0)))
    _, threshold, below = max(choices)
    return threshold, below


def _ranks(values: Floats) -> Floats:
    """Ranks over the runs of a group, centred, in units of the group's size: [draws, runs] to the same."""
    ranks = rankdata(values, axis=1) / values.shape[1]
    centred: Floats = ranks - ranks.mean(axis=1, keepdims=True)
    return centred


def _correlate(cells: Sequence[Floats]) -> Floats:
    """Correlation of the ranks of all groups together; each is [draws, runs, 2], or [runs, 2] for one draw."""
    ranks = []
    for cell in cells:
        draws = cell.reshape(-1, *cell.shape[-2:])
        ranks.append(np.stack([_ranks(draws[..., 0]), _ranks(draws[..., 1])]))
    signal, outcome = np.concatenate(ranks, axis=-1)
    with np.errstate(invalid="ignore"):
        found: Floats = (signal * outcome).sum(1) / np.sqrt((signal**2).sum(1) * (outcome**2).sum(1))
    return found


def _permuted(cells: Sequence[Floats], rng: np.random.Generator) -> Floats:
    """Correlations of signals that were shuffled within their groups."""
    product, squares = np.zeros(NUM_PERMUTATIONS), np.zeros(2)
    for cell in cells:
        signal, outcome = _ranks(cell.T)
        shuffled = rng.permuted(np.broadcast_to(signal, (NUM_PERMUTATIONS, len(signal))), axis=1)
        product += shuffled @ outcome
        squares += (signal**2).sum(), (outcome**2).sum()
    found: Floats = product / np.sqrt(squares.prod())
    return found
