"""Evaluation of a model on a task: sampling in seeded batches, grading, and what comes out on average."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from effopd.errors import ConfigurationError, DataError
from effopd.evaluation.backends import Backend, TransformersBackend, derived_seed, encode_prompts
from effopd.evaluation.divergence import reverse_kl
from effopd.evaluation.statistics import Estimate, estimate_mean, estimate_ratio, pass_at_k
from effopd.evaluation.tasks import Task
from effopd.models.vocabulary import check_vocabulary_sizes

Item = tuple[int, int]
"""Index of a prompt and of one of its samples, both from 0."""


@dataclass(frozen=True)
class ExampleRecord:
    """One completion.

    Attributes:
        prompt: Index of the prompt in the task.
        sample: Which of the prompt's samples, from 0.
        completion: The text, without special tokens.
        passed: The grader's verdict.
        reason: `passed`, or why not.
        num_tokens: Sampled tokens, the end-of-sequence token included.
        truncated: Whether the limit on tokens cut it.
        kl: Reverse KL to the teacher in nats, summed over those tokens; None without a teacher.
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
    """What came out of an evaluation. Every prompt has the same number of samples.

    Attributes:
        records: By prompt and sample.
    """

    records: list[ExampleRecord]

    @property
    def mean(self) -> float:
        """avg@n: share of passed samples, averaged over the samples of a problem, then over problems."""
        return self._accuracy.value

    @property
    def standard_error(self) -> float:
        """Of `mean`, from the spread between problems; NaN for a single problem."""
        return self._accuracy.standard_error

    @property
    def interval(self) -> tuple[float, float]:
        """95 % bootstrap interval of `mean`, resampling problems."""
        return self._accuracy.interval

    @property
    def num_samples(self) -> int:
        """n: samples per problem."""
        return len(self.records) // len(self._problems)

    @property
    def num_tokens(self) -> float:
        """Mean length of a completion, in tokens."""
        return sum(record.num_tokens for record in self.records) / len(self.records)

    @property
    def truncation_rate(self) -> float:
        """Share of completions that the limit on tokens cut."""
        return sum(record.truncated for record in self.records) / len(self.records)

    @property
    def kl_per_token(self) -> float | None:
        """Reverse KL to the teacher in nats: total over all completions, by the total of tokens; None without one."""
        return None if self._kl_per_token is None else self._kl_per_token[0]

    @property
    def kl_per_token_standard_error(self) -> float | None:
        """Of `kl_per_token`, by the delta method over problems; NaN for a single problem."""
        return None if self._kl_per_token is None else self._kl_per_token[1]

    @property
    def kl_per_sequence(self) -> float | None:
        """Reverse KL to the teacher in nats, summed over a completion, averaged over completions; None without one."""
        return None if self._kl_per_sequence is None else self._kl_per_sequence.value

    @property
    def kl_per_sequence_standard_error(self) -> float | None:
        """Of `kl_per_sequence`, from the spread between problems; NaN for a single problem."""
        return None if self._kl_per_sequence is None else self._kl_per_sequence.standard_error

    def pass_at(self, k: int) -> float:
        """pass@k: unbiased estimate for each problem from its n samples, averaged over problems; k in 1..n."""
        return self.pass_at_estimate(k).value

    def pass_at_estimate(self, k: int) -> Estimate:
        """pass@k with its standard error and interval over problems."""
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
    def _accuracy(self) -> Estimate:
        return estimate_mean([sum(each.passed for each in records) / len(records) for records in self._problems])

    @cached_property
    def _kl_totals(self) -> list[float] | None:
        """By problem."""
        if any(record.kl is None for record in self.records):
            return None
        return [math.fsum(record.kl or 0.0 for record in records) for records in self._problems]

    @cached_property
    def _kl_per_token(self) -> tuple[float, float] | None:
        lengths = [sum(record.num_tokens for record in records) for records in self._problems]
        return None if self._kl_totals is None else estimate_ratio(self._kl_totals, lengths)

    @cached_property
    def _kl_per_sequence(self) -> Estimate | None:
        if self._kl_totals is None:
            return None
        return estimate_mean([total / self.num_samples for total in self._kl_totals])


def evaluate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    *,
    num_samples: int = 1,
    seed: int = 0,
    batch_size: int = 256,
    temperature: float = 1.0,
    teacher: PreTrainedModel | None = None,
) -> Evaluation:
    """Evaluate a model in memory.

    Equal arguments give equal results; what is sampled depends on `batch_size`, too. Torch's global generators, the
    model's mode and its `generation_config` are left as they were.

    Args:
        model: A causal language model.
        tokenizer: Its tokenizer.
        task: What to do (see `load_task`).
        num_samples: n: completions for each prompt, at least 1.
        seed: Of the sampling, at least 0.
        batch_size: Completions generated at a time, at least 1.
        temperature: Of the sampling, from the whole vocabulary; 0 takes the most probable token.
        teacher: A model with the same tokenizer: the reverse KL to it is measured on the completions.

    Raises:
        ConfigurationError: An argument cannot be right.
        DataError: A prompt has no tokens, or a grader cannot read an answer.
        UnsupportedError: Completions are programs, and there is no working sandbox.
    """
    plan = Plan(task, tokenizer, num_samples=num_samples, seed=seed, batch_size=batch_size, temperature=temperature)
    task.check_grader()
    backend = TransformersBackend(model, tokenizer)
    records = [record for index in range(len(plan.batches)) for record in plan.run(index, backend, teacher)]
    return Evaluation(sorted(records, key=lambda record: (record.prompt, record.sample)))


class Plan:
    """Which completions are sampled together. Depends on its arguments alone, so that any batch can be done again.

    Arguments are those of `evaluate`.

    Attributes:
        batches: (prompt, sample) of each batch, the longest prompts first: what does not fit into memory fails early.
    """

    def __init__(
        self,
        task: Task,
        tokenizer: PreTrainedTokenizerBase,
        *,
        num_samples: int,
        seed: int,
        batch_size: int,
        temperature: float,
    ) -> None:
        for name, value, least in (("num_samples", num_samples, 1), ("batch_size", batch_size, 1), ("seed", seed, 0)):
            if value < least:
                raise ConfigurationError(f"{name}: got {value}, expected at least {least}.")
        if not 0 <= temperature < math.inf:
            raise ConfigurationError(f"temperature: got {temperature}, expected a number of at least 0.")
        if temperature == 0 and num_samples > 1:
            raise ConfigurationError(f"temperature 0 samples nothing: {num_samples} samples would be equal; ask for 1.")
        self.task = task
        self.seed = seed
        self.temperature = temperature
        self._prompt_ids = encode_prompts(tokenizer, task.prompts)
        order = sorted(range(len(self._prompt_ids)), key=lambda prompt: -len(self._prompt_ids[prompt]))
        items: list[Item] = [(prompt, sample) for prompt in order for sample in range(num_samples)]
        self.batches = [items[start : start + batch_size] for start in range(0, len(items), batch_size)]

    def run(self, index: int, backend: Backend, teacher: PreTrainedModel | None = None) -> list[ExampleRecord]:
        """Sample one batch, grade it, and measure its KL to the teacher.

        Args:
            index: Of the batch.
            backend: What generates; with a teacher, transformers.
            teacher: As for `evaluate`.
        """
        batch = self.batches[index]
        prompts = [self._prompt_ids[prompt] for prompt, _ in batch]
        completions = backend.complete(
            prompts,
            derived_seed(self.seed, index),
            max_new_tokens=self.task.max_new_tokens,
            temperature=self.temperature,
        )
        ids = [completion.token_ids for completion in completions]
        texts = backend.tokenizer.batch_decode(ids, skip_special_tokens=True)
        verdicts = self.task.grader(texts, [self.task.answers[prompt] for prompt, _ in batch])
        records = [
            ExampleRecord(*item, text, verdict.passed, verdict.reason, len(completion.token_ids), completion.truncated)
            for item, text, verdict, completion in zip(batch, texts, verdicts, completions, strict=True)
        ]
        if teacher is None:
            return records
        if not isinstance(backend, TransformersBackend):
            raise ConfigurationError("The KL to a teacher needs the model in memory; use the backend of transformers.")
        check_vocabulary_sizes(backend.model.config, teacher.config, backend.tokenizer)
        sums = reverse_kl(backend.model, teacher, prompts, ids)
        return [replace(record, kl=value) for record, value in zip(records, sums, strict=True)]


def powers_of_two(largest: int) -> Sequence[int]:
    """1, 2, 4, ... up to a number."""
    return [1 << power for power in range(largest.bit_length())]
