"""The record of `validation_power.py` as Markdown."""

from collections.abc import Sequence
from typing import Any

from run_records import table_of

Row = dict[str, Any]

RULES = {"paper": ">=", "reference": ">"}  # preset, and how a score has to compare with the best so far


def percent(value: float) -> str:
    """A probability as times in 100: whole from 10 on, else two significant digits."""
    return f"{100 * value:.0f}" if value >= 0.0995 else f"{100 * value:.2g}" if value >= 1e-5 else "< 0.001"


def with_error(value: dict[str, float]) -> str:
    return f"{100 * value['estimate']:.1f} ± {100 * value['standard_error']:.1f}"


def points(difference: float) -> str:
    """A difference of accuracies in words."""
    return "equal" if not difference else f"{abs(100 * difference):g} points {'worse' if difference < 0 else 'better'}"


LABELS = {"accuracy": "accuracy of W_t", "difference": "candidate"}
WORDS = {
    "accuracy": "{:g}".format,
    "difference": points,
    "num_prompts": "{} prompts".format,
    "between_prompts": "rho = {:g}".format,
}


def acceptance_table(rows: Sequence[Row], places: Sequence[str], column: str) -> str:
    """How often a candidate is accepted, `>=` / `>` in each cell.

    Args:
        rows: Single comparisons.
        places: Their fields that tell the lines of the table apart.
        column: The field that tells its columns apart.
    """
    columns = list(dict.fromkeys(row[column] for row in rows))
    lines: dict[tuple[str, ...], dict[float, str]] = {}
    for row in rows:
        line = lines.setdefault(tuple(WORDS[name](row[name]) for name in places), {})
        line[row[column]] = " / ".join(percent(row[rule]) for rule in RULES)
    header = [*(LABELS[name] for name in places), *map(WORDS[column], columns)]
    return table_of(header, ([*place, *(line.get(each, "") for each in columns)] for place, line in lines.items()))


def trigger_table(rows: Sequence[Row], scales: Sequence[float]) -> str:
    """How often a trigger ends with each scale."""
    header = [*LABELS.values(), "rule", "nothing", *(f"x{scale:g}" for scale in scales[1:])]
    return table_of(
        header,
        (
            [*(WORDS[name](row[name]) for name in LABELS), sign, *map(percent, row[rule])]
            for row in rows
            for rule, sign in RULES.items()
        ),
    )


def measured_table(pairs: Sequence[Row], columns: dict[str, tuple[str, ...]]) -> str:
    """Estimates with standard errors; `columns` says for each header which fields lead to the estimate."""
    columns = {"accuracy of W_t, %": ("accuracy",), "difference, points": ("difference",), **columns}
    lines = []
    for pair in pairs:
        line = [f"{pair['baseline']:g} → {pair['candidate']:g}"]
        for path in columns.values():
            value = pair
            for field in path:
                value = value[field]
            line.append(with_error(value))
        lines.append(line)
    return table_of(["alpha", *columns], lines)


def markdown(record: dict[str, Any]) -> str:
    """The whole report."""
    exact, measured = record["exact"], record["measured"]
    number = measured["num_prompts"]
    with_that_number = [row for row in exact["comparisons"] if row["num_prompts"] == number]
    with_more_prompts = [row for row in exact["comparisons"] if row["difference"] in (0, -0.05)]
    independent = {"variance given prompts": ("variance_given_prompts",), "variance": ("independent", "variance")}
    shared = {"tie": ("independent", "tie"), "tie, shared": ("shared", "tie")}
    for rule, sign in RULES.items():
        independent |= {sign: ("independent", rule), f"{sign} binomial": ("binomial", rule)}
        shared |= {sign: ("independent", rule), f"{sign}, shared": ("shared", rule)}
    parts = [
        "# How much a validation on 50 sampled answers can tell",
        f"Made by `{record['command']}`. Numbers are times in 100.",
        "## Exact, if every prompt has the same chance of a right answer",
        f"How often one candidate is accepted on {number} prompts, by `>=` / by `>`. Their difference is how often it "
        "ties with W_t.",
        acceptance_table(with_that_number, ["accuracy"], "difference"),
        "The same with more prompts.",
        acceptance_table(with_more_prompts, ["accuracy", "difference"], "num_prompts"),
        f"Which scale a trigger ends with, on {number} prompts, if the candidates of all scales are equally good.",
        trigger_table([row for row in exact["triggers"] if row["num_prompts"] == number], exact["scales"]),
        "## Exact, if prompts differ",
        f"The same comparison on {number} prompts, if a share rho of the variance of one answer's score lies between "
        "prompts, and the prompts that are hard for W_t are hard for the candidate. Empty: these accuracies do not "
        "allow it.",
        acceptance_table(exact["unequal_prompts"], ["accuracy", "difference"], "between_prompts"),
        "## Measured on the embedded world",
        f"Weights are base + alpha * (teacher - base), sampled {measured['num_samples']} times on each of "
        f"{measured['num_problems']} problems; ± is the standard error over problems (0.0 also where something never "
        f"happened in any sample). The {number} prompts are drawn at random, the same for W_t and the candidate. "
        "Variances are of the difference of the two scores, in percent of the binomial's: given the prompts, and "
        "including their draw. Beside each acceptance stands the binomial's at the same two accuracies.",
        measured_table(measured["pairs"], independent),
        "The same pairs, if W_t and the candidate sample with the same random numbers (shared).",
        measured_table(measured["pairs"], shared),
    ]
    return "\n\n".join(parts) + "\n"
