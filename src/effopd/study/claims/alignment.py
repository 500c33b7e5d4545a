"""How early the directions of the final update are there."""

import numpy as np

from effopd.study.claims.claim import PAPER, Claim
from effopd.study.records import ALIGNMENTS, ANALYSIS, Records, UnresolvedError, needs

THEME = "Directions are found early"
SHARES = (0.1, 0.2, 0.3)
_RANKS = [f"subspace_{rank}" for rank in range(1, 21)]


def alignment(records: Records, role: str, seed: int, share: float) -> float:
    """Compute a run's alignment with its own last checkpoint after a share of its steps.

    It is the root mean square cosine between the spans of the first k left singular vectors, averaged over k = 1..20
    and over attention and MLP matrices, and linear between checkpoints.

    Raises:
        UnresolvedError: The first checkpoint is later, or steps are not known.
    """
    known = list(records.matrices(role, seed)["parameter"])
    rows = records.alignments
    rows = rows[(rows["role"] == role) & (rows["seed"] == seed) & rows["parameter"].isin(known)]
    if rows["step"].isna().any():
        raise UnresolvedError(f"the steps of {role}'s checkpoints are not known")
    by_matrix = rows.assign(alignment=rows[_RANKS].mean(axis=1))
    curve = by_matrix.groupby("step")["alignment"].mean().sort_index()
    shares = curve.index.to_numpy(dtype=float) / curve.index.max()
    if shares[0] > share + 1e-9:
        raise UnresolvedError(f"the first checkpoint of {role} is at {shares[0]:.0%} of its steps")
    return float(np.interp(share, shares, curve.to_numpy(dtype=float)))


def _claim(share: float) -> Claim:
    percent = round(100 * share)
    return Claim(
        name=f"early_alignment_{percent}",
        theme=THEME,
        statement=f"After {percent} % of training, OPD's dominant subspaces are nearer to its final ones than RL's.",
        source=f"{PAPER}, subspace alignment over training",
        statistic=(
            "root mean square cosine of the first k left singular vectors' span with the final one's, averaged over "
            f"k = 1..20 and over attention and MLP matrices, after {percent} % of the steps: OPD less RL"
        ),
        threshold=0.0,
        direction="above",
        needs=(*needs(ALIGNMENTS, "opd", "rl"), *needs(ANALYSIS, "opd", "rl")),
        measure=lambda records, seed: alignment(records, "opd", seed, share) - alignment(records, "rl", seed, share),
    )


CLAIMS = tuple(_claim(share) for share in SHARES)
