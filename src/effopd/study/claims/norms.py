"""What a unit of update norm buys, and where the norm is put."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from effopd.study.claims.claim import PAPER, Claim
from effopd.study.records import ANALYSIS, Records, UnresolvedError, needs

THEME = "Gain per unit of update norm"
ALGORITHMS = ("rl", "dapo", "ppo")


def gain_per_norm(records: Records, seed: int, rl: str = "rl") -> float:
    """Compute the gain in accuracy over the base per unit of the final update's norm: OPD's less RL's.

    Raises:
        UnresolvedError: A run has not moved.
    """
    return gain_of_norm(records, seed, "opd") - gain_of_norm(records, seed, rl)


def gain_of_norm(records: Records, seed: int, role: str) -> float:
    """Compute a method's gain in accuracy over the base per unit of its final update's norm.

    Raises:
        UnresolvedError: The run has not moved.
    """
    points = records.curve("update_norm", role, seed, "scale").set_index("value")
    if not {0.0, 1.0} <= set(points.index) or not points.loc[1.0, "update_norm"] > 0:
        raise UnresolvedError(f"{role}'s sweep update_norm lacks the base or the final model, or they are the same")
    return float((points.loc[1.0, "mean"] - points.loc[0.0, "mean"]) / points.loc[1.0, "update_norm"])


def spread_over_algorithms(values: Mapping[str, float], opd: float) -> float:
    """Compute how far the RL algorithms are apart, highest less lowest, as a share of the size of OPD's value.

    Raises:
        UnresolvedError: OPD's value is 0.
    """
    if opd == 0:
        raise UnresolvedError("OPD's value is 0, of which nothing is a share")
    return (max(values.values()) - min(values.values())) / abs(opd)


def difference_at_equal_norm(records: Records, seed: int, kind: str) -> float:
    """Compute how much more accurate OPD is than RL, averaged over the norms that both curves reach.

    A curve starts at the base, and is linear between its points in the order of the path: of a path that comes back to
    a norm, the first point that has it counts.
    """
    curves = []
    for role in ("opd", "rl"):
        points = records.curve("update_norm", role, seed, kind)
        start = records.curve("update_norm", role, seed, "scale").iloc[:1]
        points = pd.concat([start, points[points["update_norm"] > start["update_norm"].iloc[0]]])
        points = points[points["update_norm"] >= points["update_norm"].cummax()]
        if kind == "scale":
            points = points[points["value"] <= 1]
        curves.append(points)
    reach = min(float(points["update_norm"].iloc[-1]) for points in curves)
    if reach <= 0:
        raise UnresolvedError("a run's weights are those of the base")
    grid = np.linspace(0, reach, 101)
    opd, rl = (np.interp(grid, points["update_norm"], points["mean"]) for points in curves)
    return float((opd - rl).mean())


def low_sensitivity_share(records: Records, seed: int) -> float:
    """Compute the share of the squared norm that is in low-sensitivity layers: RL's less OPD's.

    Layers and modules are ordered by the accuracy of the base with the update of the window around them alone, averaged
    over OPD and RL; the lower half are of low sensitivity. Norms are those of the central layer's own update.
    """
    windows = []
    for role in ("opd", "rl"):
        rows = records.curve("sliding_window", role, seed, "mlp", "attention")
        windows.append(rows.set_index(["kind", "value"])[["mean", "layer_norm"]])
    accuracy = sum((rows["mean"] for rows in windows[1:]), windows[0]["mean"]).dropna()
    if len(accuracy) < 4:
        raise UnresolvedError("OPD and RL have fewer than four windows in common")
    low = accuracy.sort_values(kind="stable").index[: len(accuracy) // 2]
    shares = []
    for rows in windows:
        squares = rows.loc[accuracy.index, "layer_norm"] ** 2
        shares.append(float(squares.loc[low].sum() / squares.sum()))
    return shares[1] - shares[0]


def _gain_claim(name: str, rl: str, label: str, source: str) -> Claim:
    return Claim(
        name=name,
        theme=THEME,
        statement=f"OPD gains more per unit of update norm than {label}.",
        source=source,
        statistic=f"gain in accuracy over the base, divided by the norm of the final update: OPD less {label}",
        threshold=0.0,
        direction="above",
        needs=needs("update_norm", "opd", rl),
        measure=lambda records, seed: gain_per_norm(records, seed, rl),
    )


_AT_EQUAL_NORM = "accuracy at equal norm of the update, averaged over the norms from 0 up to the lesser end"
CLAIMS = (
    _gain_claim("gain_per_norm", "rl", "RL", f"{PAPER}, accuracy against the norm of the update"),
    _gain_claim("gain_per_norm_dapo", "dapo", "DAPO", f"{PAPER}, other RL algorithms"),
    _gain_claim("gain_per_norm_ppo", "ppo", "PPO", f"{PAPER}, other RL algorithms"),
    Claim(
        name="rl_algorithm_gain_per_norm",
        theme=THEME,
        statement="The RL algorithm (GRPO, DAPO, PPO) changes nothing of the contrast with OPD: gain per norm.",
        source=f"{PAPER}, other RL algorithms (the bound of a quarter is ours)",
        statistic=(
            "gain in accuracy over the base, divided by the norm of the final update: highest less lowest of GRPO, "
            "DAPO and PPO, as a share of OPD's"
        ),
        threshold=0.25,
        direction="below",
        needs=needs("update_norm", "opd", *ALGORITHMS),
        measure=lambda records, seed: spread_over_algorithms(
            {role: gain_of_norm(records, seed, role) for role in ALGORITHMS}, gain_of_norm(records, seed, "opd")
        ),
    ),
    Claim(
        name="rl_algorithm_effective_rank",
        theme=THEME,
        statement="The RL algorithm (GRPO, DAPO, PPO) changes nothing of the contrast with OPD: effective rank.",
        source=f"{PAPER}, other RL algorithms (the bound of a quarter is ours)",
        statistic=(
            "effective rank of the last checkpoint, averaged over attention and MLP matrices: highest less lowest of "
            "GRPO, DAPO and PPO, as a share of OPD's"
        ),
        threshold=0.25,
        direction="below",
        needs=needs(ANALYSIS, "opd", *ALGORITHMS),
        measure=lambda records, seed: spread_over_algorithms(
            {role: records.mean_of_matrices(role, seed, "effective_rank") for role in ALGORITHMS},
            records.mean_of_matrices("opd", seed, "effective_rank"),
        ),
    ),
    Claim(
        name="equal_norm_final",
        theme=THEME,
        statement="Scaled to the same norm, OPD's final update is worth more than RL's.",
        source=f"{PAPER}, accuracy against the norm of the scaled final update",
        statistic=f"{_AT_EQUAL_NORM}, of the scaled final update: OPD less RL",
        threshold=0.0,
        direction="above",
        needs=needs("update_norm", "opd", "rl"),
        measure=lambda records, seed: difference_at_equal_norm(records, seed, "scale"),
    ),
    Claim(
        name="equal_norm_training",
        theme=THEME,
        statement="Along training, too, OPD is more accurate than RL at the same norm of the update.",
        source=f"{PAPER}, accuracy against the norm of the update over training",
        statistic=f"{_AT_EQUAL_NORM}, of the checkpoints: OPD less RL",
        threshold=0.0,
        direction="above",
        needs=needs("update_norm", "opd", "rl"),
        measure=lambda records, seed: difference_at_equal_norm(records, seed, "checkpoint"),
    ),
    Claim(
        name="low_sensitivity",
        theme=THEME,
        statement="RL puts more of its update into layers to which accuracy is little sensitive than OPD does.",
        source=f"{PAPER}, module-allocation level",
        statistic=(
            "share of the squared norm in the half of layers and modules whose windows are worth least (averaged over "
            "both methods): RL less OPD"
        ),
        threshold=0.0,
        direction="above",
        needs=needs("sliding_window", "opd", "rl"),
        measure=low_sensitivity_share,
    ),
)
