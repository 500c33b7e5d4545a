"""How concentrated updates are: the metrics of the paper's Table 1, and the path of the first singular vector."""

from effopd.study.claims.claim import PAPER, Claim
from effopd.study.records import ANALYSIS, EMBEDDINGS, Records, needs

THEME = "Concentration of the update"
_BOTH = needs(ANALYSIS, "opd", "rl")
_MEANS = "of the last checkpoint, averaged over attention and MLP matrices"


def _difference(records: Records, seed: int, column: str) -> float:
    return records.mean_of_matrices("opd", seed, column) - records.mean_of_matrices("rl", seed, column)


def embedding_cosine(records: Records, seed: int) -> float:
    """Compute how much nearer OPD's input embeddings stay to the base's than RL's, in mean cosine."""
    cosines = {}
    for role in ("opd", "rl"):
        rows = records.embeddings
        rows = rows[(rows["role"] == role) & (rows["seed"] == seed) & ~rows["parameter"].str.contains("lm_head")]
        cosines[role] = float(rows[rows["checkpoint"] == rows["checkpoint"].max()]["mean"].mean())
    return cosines["opd"] - cosines["rl"]


CLAIMS = (
    Claim(
        name="spectral_ratio",
        theme=THEME,
        statement="OPD's update has a higher ratio of spectral to Frobenius norm than RL's.",
        source=f"{PAPER}, Table 1",
        statistic=f"spectral over Frobenius norm {_MEANS}: OPD less RL",
        threshold=0.0,
        direction="above",
        needs=_BOTH,
        measure=lambda records, seed: _difference(records, seed, "spectral_to_frobenius"),
    ),
    Claim(
        name="effective_rank",
        theme=THEME,
        statement="OPD's update has a lower effective rank than RL's.",
        source=f"{PAPER}, Table 1",
        statistic=f"effective rank {_MEANS}: OPD over RL",
        threshold=1.0,
        direction="below",
        needs=_BOTH,
        measure=lambda records, seed: (
            records.mean_of_matrices("opd", seed, "effective_rank")
            / records.mean_of_matrices("rl", seed, "effective_rank")
        ),
        is_ratio=True,
    ),
    Claim(
        name="top1_ratio",
        theme=THEME,
        statement="OPD's update has more of its norm in the first 1 % of its singular components than RL's.",
        source=f"{PAPER}, Table 1",
        statistic=f"top-1 % subspace norm ratio {_MEANS}: OPD less RL",
        threshold=0.0,
        direction="above",
        needs=_BOTH,
        measure=lambda records, seed: _difference(records, seed, "top1pct_norm_ratio"),
    ),
    Claim(
        name="evr",
        theme=THEME,
        statement="OPD's first singular vector moves in a plane over training.",
        source=f"{PAPER}, trajectories of the first singular vector (the bound of 0.9 is ours)",
        statistic="EVR_{0:2} of u_1 over OPD's checkpoints, averaged over attention and MLP matrices",
        threshold=0.9,
        direction="above",
        needs=needs(ANALYSIS, "opd"),
        measure=lambda records, seed: records.mean_of_matrices("opd", seed, "trajectory_evr"),
    ),
    Claim(
        name="embedding_shift",
        theme=THEME,
        statement="OPD leaves the embeddings nearer to the base's than RL does.",
        source=f"{PAPER}, embedding shift (cosines of 0.937 to 0.985 against 0.896 to 0.967)",
        statistic="mean cosine between trained and base embeddings, at the last checkpoint: OPD less RL",
        threshold=0.0,
        direction="above",
        needs=needs(EMBEDDINGS, "opd", "rl"),
        measure=embedding_cosine,
        digits=5,
    ),
)
