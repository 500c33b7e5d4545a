"""What the local quadratic view at the base, before training, says of what training does (`effopd linearize`).

b is the negative gradient of the loss at the base, the driving term. Shares of b are those without the noise of their
number of completions. Each seed of training is held against contexts that were sampled with the same seed.
"""

from collections.abc import Callable, Sequence
from typing import Any

from scipy.stats import spearmanr

from effopd.parameters import locate
from effopd.study.claims.alignment import alignment
from effopd.study.claims.claim import PAPER, Bound, Claim
from effopd.study.claims.cost import cost_ratio
from effopd.study.records import (
    ALIGNMENTS,
    ANALYSIS,
    COSTS,
    LINEARIZED,
    Records,
    TooFewWorldsError,
    UnresolvedError,
    needs,
)

THEME = "The local quadratic view before training"
SOURCE = f"{PAPER}, appendix on linearised dynamics"
FEW = 10
"""Number of eigenvectors that counts as few."""
FEWEST_WORLDS = 6
"""Number of worlds below which a rank correlation over them says nothing."""
_HERE = needs(LINEARIZED, "opd")
_GRADIENTS = (("trace_opd", "distillation's"), ("trace_rl", "RL's"))


def share_in_few(records: Records, seed: int) -> float:
    """Find the share of |b|^2 in the first few eigenvectors of A, without noise.

    Raises:
        UnresolvedError: There were no fresh contexts, b is lost in their noise, or fewer eigenvectors were found.
    """
    unbiased = records.linearized[seed].get("unbiased")
    if not unbiased or unbiased["squared_norm"] <= 0:
        raise UnresolvedError("b cannot be told from the noise of its completions")
    if len(unbiased["driving_share"]) < FEW:
        raise UnresolvedError(f"fewer than {FEW} eigenvectors were found")
    return float(unbiased["driving_share"][FEW - 1])


def by_module(norms: dict[str, float]) -> dict[tuple[str, int], float]:
    """Add up squared norms of parameters to those of each kind of module in each layer; others are left out."""
    found: dict[tuple[str, int], float] = {}
    for name, norm in norms.items():
        place = locate(name)
        if place.layer is not None and place.kind in ("attention", "mlp"):
            found[place.kind, place.layer] = found.get((place.kind, place.layer), 0.0) + norm**2
    return found


def rank_correlation(left: dict[Any, float], right: dict[Any, float]) -> float:
    """Compute Spearman's correlation over what both have.

    Raises:
        UnresolvedError: They have fewer than four in common, or one of them is the same everywhere.
    """
    both = [key for key in left if key in right]
    columns = [[of[key] for key in both] for of in (left, right)]
    if len(both) < 4 or any(len(set(column)) < 2 for column in columns):
        raise UnresolvedError(f"{len(both)} parts have a norm in both, or they are all equal: they have no ranks")
    return float(spearmanr(*columns).statistic)


def ranks_of_updates(records: Records, seed: int) -> float:
    """Correlate the root mean squares of b and of OPD's final update over the parameters.

    Norms would be ranked by the number of elements, whatever b is.
    """
    sizes = records.numbers_of_elements("opd", seed)
    both = (records.linearized[seed]["driving_norm_by_parameter"], records.norms_by_parameter("opd", seed))
    b, update = ({name: norm / sizes[name] ** 0.5 for name, norm in of.items() if name in sizes} for of in both)
    return rank_correlation(b, update)


def ranks_of_windows(records: Records, seed: int) -> float:
    """Correlate b's norm in each layer with the accuracy of the window around it: for attention, for MLPs, averaged.

    Over both kinds together, the correlation would be that of their numbers of elements.
    """
    b = by_module(records.linearized[seed]["driving_norm_by_parameter"])
    found = []
    for kind in ("attention", "mlp"):
        rows = records.curve("sliding_window", "opd", seed, kind)
        windows = {(kind, int(row.value)): float(row.mean) for row in rows.itertuples()}
        found.append(rank_correlation(b, windows))
    return sum(found) / len(found)


def noise_ratio(records: Records, seed: int) -> float:
    """Divide the number of completions after which RL's mean gradient is as large as its noise by distillation's.

    Where RL's mean gradient cannot be told from 0, its squared norm is taken as it is, noise included: the ratio is at
    least the one that follows, and counts if it is above 1.

    Raises:
        UnresolvedError: Distillation's mean gradient cannot be told from 0, or that bound decides nothing.
    """
    found = records.linearized[seed]
    rl, opd = (found[key] or {} for key in ("trace_rl", "trace_opd"))
    completions = opd.get("completions_for_unit_noise")
    if completions is None or not rl:
        raise UnresolvedError("distillation's mean gradient cannot be told from 0, or there were no answers to reward")
    if (exact := rl["completions_for_unit_noise"]) is not None:
        return float(exact / completions)
    why = "RL's mean gradient cannot be told from 0"
    bound = rl["value"] / (rl["squared_mean"] + rl["value"] / found["num_contexts"]) / completions
    if bound > 1:
        return Bound(bound, True, why)
    raise UnresolvedError(why)


def cosine_of_means(records: Records, seed: int) -> float:
    """Find the cosine between the mean gradients of distillation and of RL at the base.

    Raises:
        UnresolvedError: There is none, or one of them cannot be told from 0, so that its direction is noise.
    """
    view = records.linearized[seed]
    if (found := view["cosine_opd_rl"]) is None:
        raise UnresolvedError("there were no answers to reward, or no answer was right")
    if lost := [words for key, words in _GRADIENTS if not view[key]["squared_mean"] > 0]:
        raise UnresolvedError(f"{' and '.join(lost)} mean gradient cannot be told from 0")
    return float(found)


def over_worlds(outcome: Callable[[Records, int], float]) -> Callable[[Sequence[Records], int], float]:
    """Make the function that correlates b's share in few eigenvectors with an outcome over the worlds, for a seed."""

    def correlate(worlds: Sequence[Records], seed: int) -> float:
        if len(worlds) < FEWEST_WORLDS:
            raise TooFewWorldsError(
                f"a rank correlation asks for {FEWEST_WORLDS} worlds, and the study has {len(worlds)}"
            )
        shares = {each.world: share_in_few(each, seed) for each in worlds}
        return rank_correlation(shares, {each.world: outcome(each, seed) for each in worlds})

    return correlate


def _here(name: str, statement: str, statistic: str, measure: Callable[[Records, int], float], **own: Any) -> Claim:
    fields: dict[str, Any] = {"source": SOURCE, "threshold": 0.0, "direction": "above", "needs": _HERE}
    return Claim(name=name, theme=THEME, statement=statement, statistic=statistic, measure=measure, **(fields | own))


def _predicts(name: str, statement: str, outcome: str, measure: Callable[[Records, int], float], **own: Any) -> Claim:
    return _here(
        f"concentration_predicts_{name}",
        f"The more of b is in few directions before training, {statement}.",
        f"Spearman's correlation over the worlds (at least {FEWEST_WORLDS}) between the share of |b|^2 in the first "
        f"{FEW} eigenvectors of A and {outcome}",
        measure,
        over_worlds=over_worlds(measure),
        source=f"{SOURCE}; the paper does not test it",
        **own,
    )


CLAIMS = (
    _here(
        "driving_concentrated",
        f"The driving term is concentrated: most of it is in {FEW} eigenvectors of the curvature.",
        f"share of |b|^2 in the first {FEW} eigenvectors of A, without the noise of completions",
        share_in_few,
        threshold=0.5,
        source=f"{SOURCE} (the bounds of {FEW} eigenvectors and one half are ours)",
    ),
    _here(
        "driving_ranks_updates",
        "Parameters whose elements have a larger driving term move more.",
        "Spearman's correlation over parameters between the root mean squares of b and of OPD's final update",
        ranks_of_updates,
        needs=(*_HERE, *needs(ANALYSIS, "opd")),
    ),
    _here(
        "driving_ranks_windows",
        "Layers with a larger driving term are worth more in the sliding window.",
        "Spearman's correlation over layers between the norm of b and the accuracy of the base with OPD's update in "
        "the window around the layer, averaged over attention and MLP",
        ranks_of_windows,
        needs=(*_HERE, *needs("sliding_window", "opd")),
    ),
    _here(
        "noise_of_gradients",
        "The same completions tell distillation more than RL.",
        "completions after which a mean gradient is as large as its noise (trace of the covariance over the squared "
        "mean), at the base and on the same completions: RL over OPD",
        noise_ratio,
        threshold=1.0,
        is_ratio=True,
        digits=2,
    ),
    _here(
        "mean_gradients_agree",
        "At the base, distillation and RL pull in the same direction.",
        "cosine between the mean gradients of distillation and RL on the same completions",
        cosine_of_means,
    ),
    _predicts(
        "rank",
        "the lower the effective rank of OPD's final update",
        "the effective rank of OPD's last checkpoint, averaged over attention and MLP matrices",
        lambda records, seed: records.mean_of_matrices("opd", seed, "effective_rank"),
        direction="below",
        needs=(*_HERE, *needs(ANALYSIS, "opd")),
    ),
    _predicts(
        "alignment",
        "the earlier the directions of OPD's final update are there",
        "OPD's subspace alignment after 10 % of its steps",
        lambda records, seed: alignment(records, "opd", seed, 0.1),
        needs=(*_HERE, *needs(ALIGNMENTS, "opd"), *needs(ANALYSIS, "opd")),
    ),
    _predicts(
        "speedup",
        "the more EffOPD saves",
        "vanilla's rollouts to the target over EffOPD's, at the careful rate",
        lambda records, seed: cost_ratio(records, seed, "rollouts", "opd", "effopd"),
        needs=(*_HERE, *needs(COSTS, "opd", "effopd")),
    ),
)
