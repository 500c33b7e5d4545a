"""What a unit of update norm buys, and where the norm is put."""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from effopd.study.claims.claim import PAPER, Claim
from effopd.study.records import ANALYSIS, Records, UnresolvedError, needs

THEME = "Gain per unit of update norm"
ALGORITHMS = ("rl", "dapo", "ppo")
EARLY = "opd-early"


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


def contrast_beyond_spread(values: Sequence[float], opd: float) -> float:
    """Compute how much farther OPD is from the mean of the RL algorithms than these are from one another."""
    return abs(opd - sum(values) / len(values)) - (max(values) - min(values))


def difference_of_final(records: Records, seed: int) -> float:
    """Compute how much more accurate OPD's scaled final update is than RL's, averaged over the norms of both.

    Raises:
        UnresolvedError: A sweep lacks the base, or a run has not moved.
    """
    curves = [records.curve("update_norm", role, seed, "scale") for role in ("opd", "rl")]
    if any(curve["value"].iloc[0] != 0 for curve in curves):
        raise UnresolvedError("a sweep update_norm lacks the scale 0, which is the base")
    return _difference(*(curve[curve["value"] <= 1] for curve in curves))


def difference_along_training(records: Records, seed: int) -> float:
    """Compute how much more accurate OPD's checkpoints are than RL's, averaged over the norms that both have.

    These are those from the first checkpoint of either on: before, there is nothing but a line from the base. OPD's
    early checkpoints may be those of a second, shorter run with the same seed, of the role `opd-early`.

    Raises:
        UnresolvedError: One run's last checkpoint is nearer to the base than the other's first, or early ones are
            planned and not there.
    """
    opd = records.curve("update_norm", "opd", seed, "checkpoint")
    if (EARLY, seed) in records.planned:
        early = records.curve("update_norm", EARLY, seed, "checkpoint")
        opd = pd.concat([early, opd[opd["value"] > early["value"].max()]])
    return _difference(opd, records.curve("update_norm", "rl", seed, "checkpoint"))


def _difference(opd: pd.DataFrame, rl: pd.DataFrame) -> float:
    """Average a difference in accuracy over the norms that two curves have in common.

    A curve is linear between its points in the order of the path: of a path that comes back to a norm, the first point
    that has it counts.
    """
    curves = [points[points["update_norm"] >= points["update_norm"].cummax()] for points in (opd, rl)]
    low = max(float(points["update_norm"].iloc[0]) for points in curves)
    high = min(float(points["update_norm"].iloc[-1]) for points in curves)
    if not low < high:
        raise UnresolvedError(f"OPD and RL have no norms in common: the first is {low:.3g} and the last {high:.3g}")
    grid = np.linspace(low, high, 101)
    of_opd, of_rl = (np.interp(grid, points["update_norm"], points["mean"]) for points in curves)
    return float((of_opd - of_rl).mean())


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


def _algorithms_claim(label: str, statistic: str, record: str, measure: Callable[[Records, int, str], float]) -> Claim:
    return Claim(
        name=f"rl_algorithm_{label.replace(' ', '_')}",
        theme=THEME,
        statement=f"RL algorithms (GRPO, DAPO, PPO) differ less from one another than from OPD: {label}.",
        source=f"{PAPER}, other RL algorithms",
        statistic=(
            f"{statistic}: OPD's distance from the mean of GRPO, DAPO and PPO, less the distance of the highest of "
            "these from the lowest"
        ),
        threshold=0.0,
        direction="above",
        needs=needs(record, "opd", *ALGORITHMS),
        measure=lambda records, seed: contrast_beyond_spread(
            [measure(records, seed, role) for role in ALGORITHMS], measure(records, seed, "opd")
        ),
    )


CLAIMS = (
    _gain_claim("gain_per_norm", "rl", "RL", f"{PAPER}, accuracy against the norm of the update"),
    _gain_claim("gain_per_norm_dapo", "dapo", "DAPO", f"{PAPER}, other RL algorithms"),
    _gain_claim("gain_per_norm_ppo", "ppo", "PPO", f"{PAPER}, other RL algorithms"),
    _algorithms_claim(
        "gain per norm",
        "gain in accuracy over the base, divided by the norm of the final update",
        "update_norm",
        gain_of_norm,
    ),
    _algorithms_claim(
        "effective rank",
        "effective rank of the last checkpoint, averaged over attention and MLP matrices",
        ANALYSIS,
        lambda records, seed, role: records.mean_of_matrices(role, seed, "effective_rank"),
    ),
    Claim(
        name="equal_norm_final",
        theme=THEME,
        statement="Scaled to the same norm, OPD's final update is worth more than RL's.",
        source=f"{PAPER}, accuracy against the norm of the scaled final update",
        statistic=(
            "accuracy at equal norm of the scaled final update, averaged over the norms up to the lesser final one: "
            "OPD less RL"
        ),
        threshold=0.0,
        direction="above",
        needs=needs("update_norm", "opd", "rl"),
        measure=difference_of_final,
    ),
    Claim(
        name="equal_norm_training",
        theme=THEME,
        statement="Along training, too, OPD is more accurate than RL at the same norm of the update.",
        source=f"{PAPER}, accuracy against the norm of the update over training",
        statistic=(
            "accuracy at equal norm of the update, averaged over the norms that the checkpoints of both have: OPD less "
            "RL"
        ),
        threshold=0.0,
        direction="above",
        needs=needs("update_norm", "opd", "rl"),
        measure=difference_along_training,
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
