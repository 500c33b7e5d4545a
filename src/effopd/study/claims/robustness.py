"""Whether EffOPD keeps the final performance, and how much depends on its settings."""

from effopd.study.claims.claim import PAPER, Claim
from effopd.study.claims.cost import cost_ratio
from effopd.study.records import COSTS, Records, UnresolvedError, needs

THEME = "Final performance and robustness"
SIZES = (10, 20, 100, 200)


def final_difference(records: Records, seed: int) -> float:
    """Compute how much more accurate EffOPD is than vanilla OPD, each at its last evaluation within the steps of both.

    Raises:
        UnresolvedError: One of them was not evaluated by then.
    """
    both = [records.accuracies(role, seed) for role in ("effopd", "opd")]
    end = min(max(accuracies) for accuracies in both)
    effopd, opd = (max((step for step in accuracies if step <= end), default=None) for accuracies in both)
    if effopd is None or opd is None:
        raise UnresolvedError(f"effopd and opd were not both evaluated within {end} steps")
    return both[0][effopd] - both[1][opd]


def against_alphaopd(records: Records, seed: int) -> float:
    """Compute how much more accurate EffOPD is, within as many steps, than what AlphaOPD extrapolates to.

    Raises:
        UnresolvedError: AlphaOPD's extrapolation was not measured, or EffOPD was not within its steps.
    """
    extrapolated = records.finished.get(("alphaopd", seed), {}).get("alphaopd") or {}
    if extrapolated.get("accuracy") is None:
        raise UnresolvedError("run.json of alphaopd has no accuracy of the extrapolated model")
    steps = extrapolated["steps"][-1]
    within = {step: value for step, value in records.accuracies("effopd", seed).items() if step <= steps}
    if not within:
        raise UnresolvedError(f"effopd was not evaluated within the {steps} steps of alphaopd")
    return within[max(within)] - float(extrapolated["accuracy"])


def _rate(name: str, words: str) -> Claim:
    return Claim(
        name=f"rate_{name}",
        theme=THEME,
        statement=f"EffOPD needs fewer rollouts than vanilla OPD at {words} the careful learning rate, too.",
        source=f"{PAPER}, robustness to the learning rate",
        statistic="rollouts until the target accuracy, those of validation included: vanilla over EffOPD",
        threshold=1.0,
        direction="above",
        needs=needs(COSTS, f"opd-{name}-rate", f"effopd-{name}-rate"),
        measure=lambda records, seed: cost_ratio(records, seed, "rollouts", f"opd-{name}-rate", f"effopd-{name}-rate"),
        is_ratio=True,
        digits=2,
    )


def _no_dearer(name: str, role: str, statement: str, about: str, than: str = "effopd") -> Claim:
    return Claim(
        name=name,
        theme=THEME,
        statement=statement,
        source=f"{PAPER}, {about} (the bound of 1.25 is ours)",
        statistic=f"rollouts until the target accuracy, those of validation included: {role} over {than}",
        threshold=1.25,
        direction="below",
        needs=needs(COSTS, role, than),
        measure=lambda records, seed: cost_ratio(records, seed, "rollouts", role, than, 1.25),
        is_ratio=True,
        digits=2,
    )


CLAIMS = (
    Claim(
        name="performance_kept",
        theme=THEME,
        statement="After as many steps, EffOPD's accuracy is at most one point below that of vanilla OPD.",
        source=f"{PAPER}, EffOPD (the margin of one point is ours)",
        statistic="accuracy at the last evaluation within the steps of both: EffOPD less vanilla OPD",
        threshold=-0.01,
        direction="above",
        needs=needs(COSTS, "opd", "effopd"),
        measure=final_difference,
    ),
    Claim(
        name="against_alphaopd",
        theme=THEME,
        statement="After as many steps, EffOPD is more accurate than AlphaOPD's extrapolation to the teacher.",
        source=f"{PAPER}, EffOPD against other methods; AlphaRL is arXiv 2510.00553",
        statistic="accuracy: EffOPD at its last evaluation within AlphaOPD's steps, less AlphaOPD's extrapolated model",
        threshold=0.0,
        direction="above",
        needs=needs(COSTS, "effopd", "alphaopd"),
        measure=against_alphaopd,
    ),
    _rate("low", "a third of"),
    _rate("high", "three times"),
    *(
        _no_dearer(
            f"validation_size_{size}",
            f"effopd-validation-{size}",
            f"With {size} validation prompts EffOPD needs at most a quarter more rollouts than with 50.",
            "size of the validation set",
        )
        for size in SIZES
    ),
    *(
        _no_dearer(
            f"validation_{part}",
            f"effopd-{part}",
            f"Validated on the {words} third of prompts, EffOPD needs at most a quarter more rollouts.",
            "difficulty of the validation set, by the base's success",
        )
        for part, words in (("easy", "easiest"), ("medium", "middle"), ("hard", "hardest"))
    ),
    _no_dearer(
        "optimizer_kept",
        "effopd",
        "Keeping the optimizer's state after a jump costs at most a quarter more rollouts than resetting it.",
        "EffOPD",
        than="effopd-reset",
    ),
)
