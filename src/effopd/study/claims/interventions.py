"""What parts of an update are worth: embeddings, windows of layers, leading and trailing components, early norms."""

from collections.abc import Callable

from effopd.study.claims.claim import PAPER, Claim, Direction
from effopd.study.records import Records, UnresolvedError, needs

THEME = "Parts of the update"
_POINT = 0.01


def embeddings_change(records: Records, seed: int, role: str) -> float:
    """Compute the accuracy of the trained model with the base's embeddings, less its accuracy as it is."""
    values = [
        records.accuracy("embedding_replacement", role, seed, kind, 0.0) for kind in ("replace-embeddings", "trained")
    ]
    return values[0] - values[1]


def mlp_over_attention(records: Records, seed: int) -> float:
    """Compute the accuracy of OPD's MLP windows less that of its attention windows, averaged over centres."""
    means = [records.curve("sliding_window", "opd", seed, kind)["mean"].mean() for kind in ("mlp", "attention")]
    return float(means[0] - means[1])


def inverted_u(records: Records, seed: int) -> float:
    """Compute the mean gain per norm of OPD's MLP windows in the middle half less that at the better end.

    It is per unit of the window's norm, because windows at the ends are cut off and hold fewer layers. Centres are
    halved by their place: the middle half are those between a quarter and three quarters of the way from the first to
    the last; the ends are the first and the last.

    Raises:
        UnresolvedError: There are fewer than four centres, or a window in which nothing moved.
    """
    rows = records.curve("sliding_window", "opd", seed, "mlp")
    if len(rows) < 4:
        raise UnresolvedError("there are fewer than four windows, and so no middle")
    if not (rows["update_norm"] > 0).all():
        raise UnresolvedError("OPD's update is 0 in a window")
    gain = (rows["mean"] - records.accuracy("sliding_window", "opd", seed, "base", 0.0)) / rows["update_norm"]
    place = (rows["value"] - rows["value"].min()) / (rows["value"].max() - rows["value"].min())
    return float(gain[(place >= 0.25) & (place <= 0.75)].mean() - max(gain.iloc[0], gain.iloc[-1]))


def top_at_equal_norm(records: Records, seed: int, percent: float) -> float:
    """Compute how much more accurate OPD is than RL with the first components alone, at one norm for both."""
    opd, rl = (records.accuracy("top_bottom", role, seed, "top", percent) for role in ("opd", "rl"))
    return opd - rl


def top_suffices(records: Records, seed: int, percent: float) -> float:
    """Compute the share of what all components gain over the base that OPD's first ones gain, at the same norm.

    Raises:
        UnresolvedError: All components gain nothing.
    """
    base = records.accuracy("top_bottom", "opd", seed, "base", 0.0)
    part, whole = (records.accuracy("top_bottom", "opd", seed, "top", each) - base for each in (percent, 100.0))
    if whole <= 0:
        raise UnresolvedError("all of OPD's components together gain nothing over the base")
    return part / whole


def tail_cost(records: Records, seed: int) -> float:
    """Compute the share of the squared norm of RL's last 90 % of components less the share of the gain that they bring.

    Shares of squared norms add up to 1, as those of the gain are expected to; shares of norms add up to more.

    Raises:
        UnresolvedError: RL's matrices gain nothing.
    """
    rows = records.curve("top_bottom", "rl", seed, "bottom").set_index("value")
    base = records.accuracy("top_bottom", "rl", seed, "base", 0.0)
    if not {90.0, 100.0} <= set(rows.index):
        raise UnresolvedError("the sweep top_bottom lacks the last 90 % or all of the components")
    if rows.loc[100.0, "mean"] <= base:
        raise UnresolvedError("RL's attention and MLP matrices gain nothing over the base")
    norm = rows.loc[90.0, "update_norm"] / rows.loc[100.0, "update_norm"]
    return float(norm**2 - (rows.loc[90.0, "mean"] - base) / (rows.loc[100.0, "mean"] - base))


def early_at_final_norm(records: Records, seed: int, beta: float = 1.0) -> float:
    """Find the accuracy of OPD's early checkpoint whose norms were brought towards the final ones by beta.

    Raises:
        UnresolvedError: The checkpoint is not at 10 % of the steps, give or take 5 %.
    """
    early = records.curve("norm_matching", "opd", seed, "beta")["step"].iloc[0]
    last = records.curve("update_norm", "opd", seed, "scale")["step"].iloc[0]
    if not abs(early / last - 0.1) <= 0.05:  # nor if steps are not known
        raise UnresolvedError(f"the early checkpoint is at step {early:g} of {last:g}, which is not about 10 %")
    return records.accuracy("norm_matching", "opd", seed, "beta", beta)


def share_of_accuracy(records: Records, seed: int) -> float:
    """Compute the accuracy of the early checkpoint with the final norms over the final accuracy."""
    return early_at_final_norm(records, seed) / records.accuracy("update_norm", "opd", seed, "scale", 1.0)


def share_of_gain(records: Records, seed: int) -> float:
    """Compute the share of the final gain over the base that the early checkpoint with the final norms has."""
    return (early_at_final_norm(records, seed) - records.base_accuracy("opd", seed)) / records.gain("opd", seed)


def plateau(records: Records, seed: int) -> float:
    """Compute the spread of accuracy between beta = 0.75 and 1.25: the highest less the lowest."""
    values = [early_at_final_norm(records, seed, beta) for beta in (0.75, 1.0, 1.25)]
    return max(values) - min(values)


def _claim(
    name: str,
    statement: str,
    source: str,
    statistic: str,
    sides: tuple[Direction, float],
    record: str,
    roles: tuple[str, ...],
    measure: Callable[[Records, int], float],
) -> Claim:
    direction, threshold = sides
    asked = needs(record, *roles) + (needs("update_norm", *roles) if record == "norm_matching" else ())
    return Claim(
        name,
        THEME,
        statement,
        f"{PAPER}, {source}",
        statistic,
        threshold,
        direction,
        asked,
        measure,
    )


def _embeddings(role: str, label: str) -> Claim:
    return _claim(
        f"embeddings_{role}",
        f"{label}'s update of the embeddings does not matter.",
        "embedding replacement (the bound of one point is ours)",
        f"accuracy of {label}'s model with the base's embeddings, less its accuracy as it is",
        ("within", _POINT),
        "embedding_replacement",
        (role,),
        lambda records, seed: embeddings_change(records, seed, role),
    )


_EARLY = "OPD's checkpoint at 10 % of its steps, each weight's update scaled to its final norm"
CLAIMS = (
    _embeddings("opd", "OPD"),
    _embeddings("rl", "RL"),
    _claim(
        "mlp_over_attention",
        "MLPs carry more of OPD's gain than attention.",
        "sliding window",
        "accuracy of the base with OPD's update in a window of layers, averaged over centres: MLP less attention",
        ("above", 0.0),
        "sliding_window",
        ("opd",),
        mlp_over_attention,
    ),
    _claim(
        "inverted_u",
        "Per unit of norm, MLP updates of the middle layers are worth more than those of the first and of the last.",
        "sliding window; its windows at the ends are cut off, so per unit of norm is ours",
        "gain over the base of OPD's MLP update in a window, divided by the window's norm: mean of the middle half of "
        "centres less better end",
        ("above", 0.0),
        "sliding_window",
        ("opd",),
        inverted_u,
    ),
    _claim(
        "top_at_equal_norm",
        "At equal norm, the first 1 % of components of OPD's update are worth more than those of RL's.",
        "top-k truncation",
        "accuracy with the first 1 % of each matrix's components, at the norms of OPD's update: OPD less RL",
        ("above", 0.0),
        "top_bottom",
        ("opd", "rl"),
        lambda records, seed: top_at_equal_norm(records, seed, 1.0),
    ),
    _claim(
        "top_suffices",
        "The first 10 % of components of OPD's update bring nearly all that all of them bring.",
        "top-k truncation (the bound of 90 % is ours)",
        "gain over the base of the first 10 % of components at the full norm, over that of all of them",
        ("above", 0.9),
        "top_bottom",
        ("opd",),
        lambda records, seed: top_suffices(records, seed, 10.0),
    ),
    _claim(
        "tail_cost",
        "The last 90 % of components of RL's update have more of its squared norm than they bring of its gain.",
        "bottom-k truncation",
        "share of the squared norm in the last 90 % of components, less the share of the gain over the base that they "
        "bring",
        ("above", 0.0),
        "top_bottom",
        ("rl",),
        tail_cost,
    ),
    _claim(
        "norm_scaling_accuracy",
        "An OPD checkpoint at 10 % of training, scaled to the final norm, has 80 % of the final accuracy.",
        "norm scaling of early checkpoints",
        f"accuracy of {_EARLY}, over the final accuracy",
        ("above", 0.8),
        "norm_matching",
        ("opd",),
        share_of_accuracy,
    ),
    _claim(
        "norm_scaling_gain",
        "An OPD checkpoint at 10 % of training, scaled to the final norm, has 80 % of the final gain over the base.",
        "norm scaling of early checkpoints; its number is of accuracy, and this is the stricter reading",
        f"gain over the base of {_EARLY}, over the final gain",
        ("above", 0.8),
        "norm_matching",
        ("opd",),
        share_of_gain,
    ),
    _claim(
        "beta_plateau",
        "Around the final norm, the accuracy of the scaled early checkpoint hardly depends on beta.",
        "norm scaling over beta (the bound of five points is ours)",
        "accuracy of OPD's early checkpoint at beta = 0.75, 1 and 1.25: highest less lowest",
        ("below", 0.05),
        "norm_matching",
        ("opd",),
        plateau,
    ),
)
