"""What a validation on 50 sampled answers can tell: how often it accepts weights that are equal, worse or better.

    python benchmarks/validation_power.py

Writes results/validation_power.{json,md}, in about four minutes of CPU time.

The first part is exact arithmetic on binomial distributions, in which every prompt has the same chance of a right
answer, and on what follows if prompts differ. The second part samples answers from the embedded world's models, and
shows too what changes when W_t and the candidate sample with the same random numbers.
"""

import argparse
import contextlib
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats
from transformers import AutoModelForCausalLM, AutoTokenizer
from validation_power_report import RULES, markdown

from effopd.extrapolation.search import PAPER_SCALES
from effopd.files import write_json, write_text
from effopd.world import TaskConfig, base_dir, make_dataset, teacher_dir, world_reward
from effopd.world.evaluate import sample_completions

ACCURACIES = (0.2, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99)
DIFFERENCES = (-0.05, -0.02, 0.0, 0.02, 0.05)
NUM_PROMPTS = 50
MORE_PROMPTS = (50, 100, 200, 500)
BETWEEN_PROMPTS = (0.0, 0.25, 0.5, 0.75)

# Weights are base + alpha * (teacher - base). Alphas were chosen by accuracy on 6,000 other problems, so that the
# candidate is about 5 or 2 points worse, equal, or 2 points better; above 1.3 it has gone past the teacher.
PAIRS = (
    *((0.3, alpha) for alpha in (0.24, 1.544, 0.275, 0.3, 0.33)),
    *((0.6, alpha) for alpha in (0.455, 1.413, 0.53, 0.6, 0.71)),
    *((0.78, alpha) for alpha in (1.38, 1.31, 0.78)),
)
SMALL_STEPS = tuple((alpha, round(alpha + step, 3)) for alpha in (0.3, 0.6) for step in (0.002, 0.01, 0.05))
NUM_PROBLEMS = 500
NUM_SAMPLES = 20
NUM_RESAMPLES = 2000


def compare(losses: np.ndarray, wins: np.ndarray, num_prompts: int) -> dict[str, np.ndarray]:
    """Probabilities that a candidate is accepted in one comparison with W_t.

    On each prompt, independently of the others, the candidate scores one point less than W_t with probability
    `losses` and one point more with probability `wins`, which may be arrays of one shape.

    Returns:
        `paper`: the candidate's score is >= that of W_t. `reference`: it is greater. `tie`: the scores are equal.
    """
    step = np.stack([losses, 1 - losses - wins, wins], axis=-1)
    size = 2 * num_prompts + 1  # differences from -num_prompts to num_prompts
    difference = np.fft.irfft(np.fft.rfft(step, size) ** num_prompts, size).clip(0)
    tie, more = difference[..., num_prompts], difference[..., num_prompts + 1 :].sum(axis=-1)
    return {"paper": tie + more, "reference": more, "tie": tie}


def compare_binomials(
    baseline: float, candidate: float, num_prompts: int, between_prompts: float = 0.0
) -> dict[str, np.ndarray]:
    """Compare scores of these two accuracies, which are independent given the prompts; results as of `compare`.

    Args:
        baseline: Accuracy of W_t.
        candidate: Accuracy of the candidate.
        num_prompts: Validation prompts, drawn at random, the same for both.
        between_prompts: Share, in [0, 1], of the variance of one answer's score that lies between prompts; the
            geometric mean of the two shares, if they differ. 0: every prompt has the same chance of a right answer,
            and the scores are binomial. 1: each prompt is always answered rightly or always wrongly. Prompts that are
            hard for W_t are hard for the candidate: their chances correlate perfectly.

    Raises:
        ValueError: No two sets of chances correlate perfectly with these accuracies and that share.
    """
    variances = baseline * (1 - baseline), candidate * (1 - candidate)
    covariance = between_prompts * np.sqrt(variances[0] * variances[1])
    losses, wins = baseline * (1 - candidate) - covariance, candidate * (1 - baseline) - covariance
    if min(losses, wins) < -1e-12:
        raise ValueError(f"{baseline} and {candidate} cannot have {between_prompts} of the variance between prompts")
    return compare(np.asarray(losses), np.asarray(wins), num_prompts)


def search_outcomes(baseline: float, candidates: Sequence[float], num_prompts: int, rule: str) -> list[float]:
    """Distribution of the accepted scale at one trigger, for independent binomial scores.

    Args:
        baseline: Accuracy of W_t.
        candidates: Accuracy of the candidate at each scale, in the order in which they are tried.
        num_prompts: Validation prompts.
        rule: `paper` accepts a score >= the best so far, `reference` a greater one.

    Returns:
        Probabilities that nothing is accepted, that the first scale is the last one accepted, and so on.
    """
    scores = np.arange(num_prompts + 1)
    best = stats.binom.pmf(scores, num_prompts, baseline)  # jointly with everything before having been accepted
    reached = [1.0]
    for accuracy in candidates:
        beaten = np.cumsum(best) if rule == "paper" else np.concatenate([[0.0], np.cumsum(best)[:-1]])
        best = stats.binom.pmf(scores, num_prompts, accuracy) * beaten
        reached.append(float(best.sum()))
    return [this - further for this, further in pairwise([*reached, 0.0])]


def exact() -> dict[str, Any]:
    """Single comparisons, and whole triggers at which all candidates have the same accuracy."""
    comparisons, triggers, unequal_prompts = [], [], []
    for num_prompts in MORE_PROMPTS:
        for accuracy in ACCURACIES:
            for difference in DIFFERENCES if num_prompts == NUM_PROMPTS else (-0.05, 0.0):
                candidate = round(accuracy + difference, 2)
                if candidate > 1:
                    continue
                place = {"num_prompts": num_prompts, "accuracy": accuracy, "difference": difference}
                comparisons.append(place | _floats(compare_binomials(accuracy, candidate, num_prompts)))
                if difference <= 0:
                    outcomes = (
                        search_outcomes(accuracy, [candidate] * len(PAPER_SCALES), num_prompts, rule) for rule in RULES
                    )
                    triggers.append(place | dict(zip(RULES, outcomes, strict=True)))
    for accuracy in ACCURACIES:
        for difference in (0.0, -0.05):
            for share in BETWEEN_PROMPTS:
                with contextlib.suppress(ValueError):
                    found = compare_binomials(accuracy, round(accuracy + difference, 2), NUM_PROMPTS, share)
                    place = {"accuracy": accuracy, "difference": difference, "between_prompts": share}
                    unequal_prompts.append(place | _floats(found))
    return {
        "comparisons": comparisons,
        "scales": [0.0, *PAPER_SCALES],
        "triggers": triggers,
        "unequal_prompts": unequal_prompts,
    }


def _floats(arrays: dict[str, np.ndarray]) -> dict[str, float]:
    return {name: float(value) for name, value in arrays.items()}


def sampled_rewards(alphas: Sequence[float], num_problems: int, num_samples: int) -> Iterator[np.ndarray]:
    """For each alpha in turn, which sampled answers were right: booleans [num_problems, num_samples].

    Sample number s has the same random numbers for every alpha.
    """
    model, base, teacher = (AutoModelForCausalLM.from_pretrained(path()) for path in (base_dir, base_dir, teacher_dir))
    tokenizer = AutoTokenizer.from_pretrained(base_dir(), padding_side="left")
    problems = make_dataset("evaluation", num_problems)
    prompts, answers = list(problems["prompt"]), list(problems["answer"])
    length = TaskConfig().max_completion_length + 2
    for alpha in alphas:
        for mine, start, end in zip(model.parameters(), base.parameters(), teacher.parameters(), strict=True):
            mine.data.copy_(torch.lerp(start.data, end.data, alpha))
        columns = [
            world_reward(sample_completions(model, tokenizer, prompts, seed, length, num_problems), answers)
            for seed in range(num_samples)
        ]
        yield np.array(columns).T == 1


def losses_and_wins(baseline: np.ndarray, candidate: np.ndarray) -> dict[str, np.ndarray]:
    """How often, on each problem, the candidate is wrong where W_t is right, and the other way round.

    Args:
        baseline: Which samples of W_t were right, booleans [num_problems, num_samples], at least two samples.
        candidate: Those of the candidate, with the same random numbers.

    Returns:
        Unbiased estimates [num_problems, 2]: `shared` from samples with the same random numbers, `independent` from
        all pairs of samples with different ones.
    """
    num_samples = baseline.shape[1]
    pairs = ((baseline, ~candidate), (candidate, ~baseline))
    same = np.stack([(one & other).sum(axis=1) for one, other in pairs], axis=1)
    every = np.stack([one.sum(axis=1) * other.sum(axis=1) for one, other in pairs], axis=1)
    return {"independent": (every - same) / (num_samples * (num_samples - 1)), "shared": same / num_samples}


def measured_pair(baseline: np.ndarray, candidate: np.ndarray) -> dict[str, Any]:
    """Acceptance of a candidate on 50 prompts drawn at random, from the same arguments as `losses_and_wins`.

    Prompts are drawn from a large population, of which the problems are a sample. So the differences on the prompts
    are independent, each with the average distribution over problems, and no draws have to be simulated.
    Standard errors are from a bootstrap over problems, which stay together with their samples.

    Returns:
        An estimate and a standard error for each of: `accuracy` of W_t; `difference` of accuracies;
        `variance_given_prompts` of the difference of scores, and for `independent` and `shared` random numbers its
        `variance` including the draw of the prompts, all as shares of the binomial's; and what `compare` returns, for
        both and for the `binomial` at the same accuracies.
    """
    num_problems = len(baseline)
    draws = np.random.default_rng(0).multinomial(num_problems, [1 / num_problems] * num_problems, size=NUM_RESAMPLES)
    weights = np.concatenate([np.ones((1, num_problems)), draws]) / num_problems  # the first row is the estimate
    accuracy, other = weights @ baseline.mean(axis=1), weights @ candidate.mean(axis=1)
    quantities: dict[str, Any] = {"accuracy": accuracy, "difference": other - accuracy}
    binomial_variance = accuracy * (1 - accuracy) + other * (1 - other)
    within = sum(rewards.var(axis=1, ddof=1) for rewards in (baseline, candidate))
    quantities["variance_given_prompts"] = weights @ within / binomial_variance
    for name, shares in losses_and_wins(baseline, candidate).items():
        losses, wins = (weights @ shares).T
        quantities[name] = compare(losses, wins, NUM_PROMPTS)
        quantities[name]["variance"] = (losses + wins - (wins - losses) ** 2) / binomial_variance
    quantities["binomial"] = compare(accuracy * (1 - other), other * (1 - accuracy), NUM_PROMPTS)

    def summary(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: summary(each) for key, each in value.items()}
        return {"estimate": float(value[0]), "standard_error": float(value[1:].std(ddof=1))}

    return {name: summary(value) for name, value in quantities.items()}


def measure() -> dict[str, Any]:
    pairs = [*PAIRS, *SMALL_STEPS]
    alphas = sorted({alpha for pair in pairs for alpha in pair})
    rewards = {}
    for alpha, sampled in zip(alphas, sampled_rewards(alphas, NUM_PROBLEMS, NUM_SAMPLES), strict=True):
        rewards[alpha] = sampled
        print(f"alpha {alpha:g}: {sampled.mean():.3f} of {sampled.size:,} answers are right", flush=True)
    rows = [
        {"baseline": one, "candidate": other, **measured_pair(rewards[one], rewards[other])} for one, other in pairs
    ]
    return {"num_problems": NUM_PROBLEMS, "num_samples": NUM_SAMPLES, "num_prompts": NUM_PROMPTS, "pairs": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    record = {
        "command": "python benchmarks/validation_power.py",
        "exact": exact(),
        "measured": measure(),
    }
    write_json(options.out / "validation_power.json", record)
    text = markdown(record)
    write_text(options.out / "validation_power.md", text)
    print(text)


if __name__ == "__main__":
    main()
