"""What comes out of an evaluation: a record of each completion, and the averages over them."""

import math
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from effopd.errors import DataError
from effopd.evaluation.statistics import MeanEstimate, estimate_mean, estimate_ratio, pass_at_k
from effopd.files import finite_or_none


@dataclass(frozen=True)
class ExampleRecord:
    """One completion.

    Attributes:
        prompt: Index of the prompt in the task, from 0.
        sample: Index of the sample among those of the prompt, from 0.
        completion: Text of the completion, without special tokens.
        passed: Whether the grader found it right.
        reason: `passed`, or why not.
        num_tokens: Number of sampled tokens, with the end-of-sequence token.
        truncated: Whether the limit on tokens ended it.
        kl: Reverse KL to the teacher in nats, summed over these tokens; None without a teacher.
    """

    prompt: int
    sample: int
    completion: str
    passed: bool
    reason: str
    num_tokens: int
    truncated: bool
    kl: float | None = None


@dataclass(frozen=True)
class Evaluation:
    """What came out of an evaluation.

    Attributes:
        records: Records of all completions, in order of prompt and sample. Every prompt has the same number of samples.
    """

    records: list[ExampleRecord]

    @property
    def mean(self) -> float:
        """avg@n: the share of a problem's samples that pass, averaged over problems."""
        return self._accuracy.value

    @property
    def standard_error(self) -> float:
        """Standard error of `mean`, from the spread between problems; NaN for a single problem."""
        return self._accuracy.standard_error

    @property
    def interval(self) -> tuple[float, float]:
        """95 % bootstrap interval of `mean`, made by resampling problems."""
        return self._accuracy.interval

    @property
    def num_samples(self) -> int:
        """n: the number of samples of each problem."""
        return len(self.records) // len(self._problems)

    @property
    def num_tokens(self) -> float:
        """Mean length of a completion, in tokens."""
        return sum(record.num_tokens for record in self.records) / len(self.records)

    @property
    def truncation_rate(self) -> float:
        """Share of completions that the limit on tokens ended."""
        return sum(record.truncated for record in self.records) / len(self.records)

    @property
    def kl_per_token(self) -> float | None:
        """Reverse KL to the teacher in nats: its total over all completions, per token; None without one."""
        return None if self._kl_per_token is None else self._kl_per_token[0]

    @property
    def kl_per_token_standard_error(self) -> float | None:
        """Standard error of `kl_per_token`, by the delta method over problems; NaN for a single problem."""
        return None if self._kl_per_token is None else self._kl_per_token[1]

    @property
    def kl_per_sequence(self) -> float | None:
        """Reverse KL to the teacher in nats, summed over each completion, averaged over all; None without one."""
        return None if self._kl_per_sequence is None else self._kl_per_sequence.value

    @property
    def kl_per_sequence_standard_error(self) -> float | None:
        """Standard error of `kl_per_sequence`, from the spread between problems; NaN for a single problem."""
        return None if self._kl_per_sequence is None else self._kl_per_sequence.standard_error

    def pass_at(self, k: int) -> float:
        """Estimate pass@k without bias from each problem's n samples, and average it over problems; k is in 1..n."""
        return self.pass_at_estimate(k).value

    def pass_at_estimate(self, k: int) -> MeanEstimate:
        """Estimate pass@k like `pass_at`, with its standard error and interval over problems."""
        passed = [sum(record.passed for record in records) for records in self._problems]
        return estimate_mean([pass_at_k(self.num_samples, count, k) for count in passed])

    @cached_property
    def _problems(self) -> list[list[ExampleRecord]]:
        problems = defaultdict(list)
        for record in self.records:
            problems[record.prompt].append(record)
        sizes = {len(records) for records in problems.values()}
        if len(sizes) != 1:
            raise DataError(f"Got {sorted(sizes)} samples for different prompts; expected the same number for each.")
        return list(problems.values())

    @cached_property
    def _accuracy(self) -> MeanEstimate:
        return estimate_mean([sum(each.passed for each in records) / len(records) for records in self._problems])

    @cached_property
    def _kl_totals(self) -> list[float] | None:
        """Reverse KL of each problem, summed over the tokens of all its completions."""
        if any(record.kl is None for record in self.records):
            return None
        return [math.fsum(record.kl or 0.0 for record in records) for records in self._problems]

    @cached_property
    def _kl_per_token(self) -> tuple[float, float] | None:
        lengths = [sum(record.num_tokens for record in records) for records in self._problems]
        return None if self._kl_totals is None else estimate_ratio(self._kl_totals, lengths)

    @cached_property
    def _kl_per_sequence(self) -> MeanEstimate | None:
        if self._kl_totals is None:
            return None
        return estimate_mean([total / self.num_samples for total in self._kl_totals])


def summarize(evaluation: Evaluation) -> dict[str, Any]:
    """Summarize an evaluation by its averages, as JSON can hold them.

    Returns:
        A mapping with `num_problems` and `num_samples`; `mean` (avg@n), `standard_error` and `interval`; `pass_at`,
        which has `value`, `standard_error` and `interval` for each power of two up to n, and n; `num_tokens` and
        `truncation_rate`; and with a teacher `kl_per_token` and `kl_per_sequence` in nats, each with its
        `..._standard_error`. A standard error is None for a single problem.
    """
    pass_at = {}
    for k in _ks(evaluation.num_samples):
        estimate = evaluation.pass_at_estimate(k)
        pass_at[str(k)] = {
            "value": estimate.value,
            "standard_error": finite_or_none(estimate.standard_error),
            "interval": list(estimate.interval),
        }
    summary: dict[str, Any] = {
        "num_problems": len(evaluation.records) // evaluation.num_samples,
        "num_samples": evaluation.num_samples,
        "mean": evaluation.mean,
        "standard_error": finite_or_none(evaluation.standard_error),
        "interval": list(evaluation.interval),
        "pass_at": pass_at,
        "num_tokens": evaluation.num_tokens,
        "truncation_rate": evaluation.truncation_rate,
    }
    if evaluation.kl_per_token is not None:
        for name in ("kl_per_token", "kl_per_sequence"):
            summary[name] = getattr(evaluation, name)
            summary[f"{name}_standard_error"] = finite_or_none(getattr(evaluation, f"{name}_standard_error"))
    return summary


def _ks(num_samples: int) -> list[int]:
    """List 1, 2, 4, ... up to the largest power of two that is not above n, and n."""
    return sorted({*(1 << power for power in range(num_samples.bit_length())), num_samples})
