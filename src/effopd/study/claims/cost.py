"""What reaching the target accuracy costs: EffOPD against vanilla OPD and its rivals, in four quantities.

Steps are those of the optimizer, of which the line search makes several on each step's rollouts.

A run that was stopped before the target bounds the ratio of costs on one side. The bound is taken as the value where it
lies on its own side of the threshold, and then no verdict for the other side is given (see `study.verdict`). Otherwise
the seed is unresolved, and so is the claim's verdict.
"""

import math

from effopd.study.claims.claim import PAPER, Bound, Claim
from effopd.study.records import COSTS, Records, UnresolvedError, needs

THEME = "Cost of reaching the target accuracy"
QUANTITIES = {
    "steps": "optimizer_steps_to_target",
    "rollouts": "rollouts_to_target",
    "tokens": "generated_tokens_to_target",
    "seconds": "seconds_to_target",
}
WORDS = dict.fromkeys(QUANTITIES, "") | {"steps": "optimizer "}
INCLUDED = dict.fromkeys(QUANTITIES, ", those of validation included") | {"steps": ""}
SETTINGS = {"": "a careful learning rate", "-best": "vanilla's best learning rate and batch"}


def cost_ratio(
    records: Records, seed: int, quantity: str, numerator: str, denominator: str, threshold: float = 1.0
) -> float:
    """Compute the ratio of what two runs spent until the target, or the bound that settles it against a threshold.

    Raises:
        UnresolvedError: Runs did not reach the target, and what they spent does not settle it.
    """
    (top, top_high), (bottom, bottom_high) = (
        records.cost(role, seed, QUANTITIES[quantity]) for role in (numerator, denominator)
    )
    ratio = top / bottom
    if math.isfinite(top_high) and math.isfinite(bottom_high):
        return ratio
    late = [role for role, high in ((numerator, top_high), (denominator, bottom_high)) if not math.isfinite(high)]
    why = f"{' and '.join(late)} did not reach the target within the steps"
    if math.isfinite(bottom_high) and ratio > threshold:
        return Bound(ratio, True, why)
    if math.isfinite(top_high) and ratio < threshold:
        return Bound(ratio, False, why)
    raise UnresolvedError(why)


def _claim(
    name: str, statement: str, source: str, quantity: str, roles: tuple[str, str], words: str, threshold: float = 1.0
) -> Claim:
    return Claim(
        name=name,
        theme=THEME,
        statement=statement,
        source=source,
        statistic=f"{WORDS[quantity]}{quantity} until the target accuracy{INCLUDED[quantity]}: {words}",
        threshold=threshold,
        direction="above",
        needs=needs(COSTS, *roles),
        measure=lambda records, seed: cost_ratio(records, seed, quantity, *roles, threshold),
        is_ratio=True,
        digits=2,
    )


def _effopd(quantity: str, suffix: str) -> Claim:
    # The paper's number is of steps, at its own learning rate, a careful one. In all else it must not be dearer.
    threshold = 3.0 if (quantity, suffix) == ("steps", "") else 1.0
    factor = f"at least {threshold:g} times fewer" if threshold > 1 else "fewer"
    return _claim(
        f"effopd_{quantity}{suffix.replace('-', '_')}",
        f"EffOPD needs {factor} {WORDS[quantity]}{quantity} than vanilla OPD, at {SETTINGS[suffix]}.",
        f"{PAPER}, EffOPD" if threshold > 1 else f"{PAPER}, EffOPD; its number is of steps, and of one setting",
        quantity,
        (f"opd{suffix}", f"effopd{suffix}"),
        "vanilla over EffOPD",
        threshold,
    )


def _line_search(quantity: str, suffix: str) -> Claim:
    return _claim(
        f"line_search_{quantity}{suffix.replace('-', '_')}",
        f"The line search needs fewer {WORDS[quantity]}{quantity} than vanilla OPD, at {SETTINGS[suffix]}.",
        "this project, docs/line_search.md",
        quantity,
        (f"opd{suffix}", f"line_search{suffix}"),
        "vanilla over line search",
    )


CLAIMS = (
    *(_effopd(quantity, suffix) for suffix in SETTINGS for quantity in QUANTITIES),
    *(_line_search(quantity, suffix) for suffix in SETTINGS for quantity in QUANTITIES),
    _claim(
        "exopd_rollouts",
        "EffOPD needs fewer rollouts than ExOPD.",
        f"{PAPER}, EffOPD against other methods; ExOPD is arXiv 2602.12125",
        "rollouts",
        ("exopd", "effopd"),
        "ExOPD over EffOPD",
    ),
)
