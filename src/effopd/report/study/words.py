"""How numbers and verdicts of a claim are written."""

from collections.abc import Mapping
from typing import Any

from effopd.report.table import NONE

VERDICTS = ("supported", "contradicted", "undecided", "not measured")
Claim = Mapping[str, Any]


def estimate(claim: Claim, of: Mapping[str, Any] | None = None) -> str:
    """Write an estimate with its interval, such as `0.029 [-0.015, 0.073]`, or `≥ 6.1 [4.9, ?]` if values are bounds.

    Args:
        claim: Entry of `claims.json`.
        of: One of its worlds; by default all of them.
    """
    numbers = claim if of is None else of
    digits = claim["digits"]
    if numbers["estimate"] is None:
        return NONE
    bounds = numbers.get("bounds", ())  # which earlier versions did not write
    sign = {("at least",): "≥ ", ("at most",): "≤ "}.get(tuple(bounds), "? " if bounds else "")
    text = f"{sign}{numbers['estimate']:.{digits}f}"
    if numbers["low"] is None:
        return text
    low = "?" if "at most" in bounds else f"{numbers['low']:.{digits}f}"
    high = "?" if "at least" in bounds else f"{numbers['high']:.{digits}f}"
    return f"{text} [{low}, {high}]"


def verdict(claim: Claim) -> str:
    """Write a verdict, and of an undecided one whether worlds decide for different sides by their own intervals."""
    return f"{claim['verdict']}: worlds disagree" if _worlds_disagree(claim) else str(claim["verdict"])


def _worlds_disagree(claim: Claim) -> bool:
    by_world = {of["verdict"] for of in claim["worlds"].values()}
    return claim["verdict"] == "undecided" and {"supported", "contradicted"} <= by_world


def p_value(value: float | None) -> str:
    """Write a p-value."""
    if value is None:
        return NONE
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def summary(content: Mapping[str, Any]) -> str:
    """Count the verdicts, and say over how many claims Holm's procedure adjusted."""
    claims = content["claims"]
    counts = {name: sum(claim["verdict"] == name for claim in claims) for name in VERDICTS}
    tested = sum(claim["p"] is not None for claim in claims)
    return (
        f"Of {len(claims)} claims, "
        + ", ".join(f"{number} {'is' if number == 1 else 'are'} {name}" for name, number in counts.items())
        + f" ({sum(map(_worlds_disagree, claims))} undecided because worlds disagree). {tested} have a p-value, over "
        "which Holm's procedure adjusts."
    )


def design(content: Mapping[str, Any]) -> str:
    """Say in sentences what was studied."""
    study = content["study"]
    digest = f"The claims were written down before the first run; their SHA-256 digest is {study['claims_sha256']}."
    if "seeds" not in study:
        return f"A study of {len(study['runs'])} runs of one's own. {digest}"
    seeds = study["seeds"]
    return (
        f"The {study['plan']} study: worlds {', '.join(study['worlds'])}; {len(seeds)} seeds of training in each, "
        f"{seeds[0]} to {seeds[-1]}; methods {', '.join(study['methods'])}. {digest}"
    )


METHOD = (
    "Each seed of training gives one value of a claim's statistic. Within a world, the interval is the 95 % t-interval "
    "of the mean over seeds. Over worlds, the estimate is the mean of the worlds' means, and the interval takes the "
    "worlds as given (variances added, degrees of freedom by Welch and Satterthwaite); it says nothing about other "
    "worlds. p is two-sided, against the threshold. A claim is supported, or contradicted, if its p after Holm's "
    "adjustment is below 0.05 and no world decides for the other side by its own interval. A claim of which a planned "
    "run is missing, or does not determine the statistic, is undecided. Where some values are known as bounds only, "
    "the estimate is written with ≥ or ≤, and the end of its interval that they leave open as ?. Intervals leave out "
    "the choice of problems, which all runs share."
)
