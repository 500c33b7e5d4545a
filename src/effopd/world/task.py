"""The task: chains of modulo-10 operations, evaluated strictly left to right.

A problem with `num_operations = 5` is the prompt `7*3+4-9*2+5=`. Its running results are 7*3 = 1, 1+4 = 5,
5-9 = 6, 6*2 = 2, 2+5 = 7 (each taken modulo 10), so the answer is `7`. There are two ways to write it:

    direct           #7;
    step by step     1,5,6,2,7;     the running result after every operation, the last being the answer

`;` ends every completion. Which split a problem belongs to is decided by a hash of its prompt, so the splits can
never share a problem, whatever the seeds.
"""

import itertools
import random
import zlib
from dataclasses import dataclass
from typing import Literal, get_args

from datasets import Dataset

from effopd.errors import ConfigurationError

OPERATORS = "+-*"
DIGITS = "0123456789"

Split = Literal["train", "validation", "evaluation"]
SPLITS: tuple[Split, ...] = get_args(Split)


@dataclass(frozen=True)
class TaskConfig:
    """How hard the problems are, and how the base is taught to answer them.

    Attributes:
        num_operations: Operations per problem, at least 1. A prompt has `2 * num_operations + 2` characters.
        step_by_step_share: Share, in [0, 1], of the pretraining completions that are written step by step; the
            others are direct.
        noise: Probability, in [0, 1), that a digit of a pretraining completion is replaced by a uniformly drawn
            one. A replaced running result is carried on into the following ones, as a slip would be.

    Raises:
        ConfigurationError: A value is outside its range.
    """

    num_operations: int = 5
    step_by_step_share: float = 0.5
    noise: float = 0.02

    def __post_init__(self) -> None:
        if self.num_operations < 1:
            raise ConfigurationError(f"num_operations: got {self.num_operations}, expected an integer >= 1")
        if not 0.0 <= self.step_by_step_share <= 1.0:
            raise ConfigurationError(f"step_by_step_share: got {self.step_by_step_share}, expected a number in [0, 1]")
        if not 0.0 <= self.noise < 1.0:
            raise ConfigurationError(f"noise: got {self.noise}, expected a number in [0, 1)")

    @property
    def max_completion_length(self) -> int:
        """Tokens of the longest well-formed completion, its `;` included (at least the 3 of a direct one)."""
        return max(2 * self.num_operations, 3)

    @property
    def num_problems(self) -> int:
        """Different problems that exist, over all splits."""
        problems: int = len(DIGITS) * (len(OPERATORS) * len(DIGITS)) ** self.num_operations
        return problems


def sample_problem(split: Split, rng: random.Random, config: TaskConfig) -> str:
    """Draw one problem of a split, uniformly, by rejection; returns its prompt, for example `7*3+4-9*2+5=`."""
    while True:
        operators = rng.choices(OPERATORS, k=config.num_operations)
        first, *others = rng.choices(DIGITS, k=config.num_operations + 1)
        prompt = first + "".join(map("".join, zip(operators, others, strict=True))) + "="
        if split_of(prompt) == split:
            return prompt


def split_of(prompt: str) -> Split:
    """The split a problem belongs to: CRC-32 of its prompt modulo 10 (0 evaluation, 1 validation, else train)."""
    bucket = zlib.crc32(prompt.encode("ascii")) % 10
    return "evaluation" if bucket == 0 else "validation" if bucket == 1 else "train"


def count_operations(prompt: str) -> int:
    """The number of operations in a prompt: 5 for `7*3+4-9*2+5=`."""
    return (len(prompt) - 2) // 2


def apply_operation(left: int, operator: str, right: int) -> int:
    """`left operator right` modulo 10, in 0..9."""
    if operator == "+":
        return (left + right) % 10
    if operator == "-":
        return (left - right) % 10
    if operator == "*":
        return (left * right) % 10
    raise ValueError(f"operator: got {operator!r}, expected one of {', '.join(OPERATORS)}")


def running_results(prompt: str) -> list[int]:
    """The result, in 0..9, after each operation of a prompt, in order; the last is the answer."""
    results = []
    value = int(prompt[0])
    for operator, digit in zip(prompt[1:-1:2], prompt[2:-1:2], strict=True):
        value = apply_operation(value, operator, int(digit))
        results.append(value)
    return results


def write_completion(prompt: str, rng: random.Random, config: TaskConfig) -> str:
    """Write one pretraining completion, in a style and with slips drawn from `rng`; ends in `;`."""

    def maybe_slip(digit: int) -> int:
        return rng.randrange(10) if rng.random() < config.noise else digit

    if rng.random() >= config.step_by_step_share:
        return f"#{maybe_slip(running_results(prompt)[-1])};"
    results = []
    value = int(prompt[0])
    for operator, digit in zip(prompt[1:-1:2], prompt[2:-1:2], strict=True):
        value = maybe_slip(apply_operation(value, operator, int(digit)))
        results.append(str(value))
    return ",".join(results) + ";"


def make_dataset(split: Split, num_examples: int, seed: int = 0, config: TaskConfig | None = None) -> Dataset:
    """Make a dataset of different problems from one split.

    Args:
        split: `train`, `validation` or `evaluation` (80, 10 and 10 % of all problems).
        num_examples: Number of problems, at least 1.
        seed: Decides which problems are drawn; the same arguments always give the same dataset.
        config: The task; `TaskConfig()` when omitted.

    Returns:
        A dataset with the string columns `prompt` (`7*3+4-9*2+5=`) and `answer` (`7`), as TRL's trainers take it.

    Raises:
        ConfigurationError: The split is unknown, or it has fewer than `num_examples` problems.
    """
    config = config or TaskConfig()
    if split not in SPLITS:
        raise ConfigurationError(f"split: got {split!r}, expected one of {', '.join(SPLITS)}")
    if num_examples < 1:
        raise ConfigurationError(f"num_examples: got {num_examples}, expected an integer >= 1")
    rng = random.Random(seed)
    prompts: list[str]
    if 20 * num_examples > config.num_problems:  # rejection could run dry: list the split instead
        prompts = _all_problems(split, config)
        if num_examples > len(prompts):
            raise ConfigurationError(
                f"num_examples: got {num_examples}, but the {split} split has only {len(prompts)} different problems"
                f" at num_operations={config.num_operations}; ask for fewer, or use more operations"
            )
        prompts = rng.sample(prompts, num_examples)
    else:
        unique: dict[str, None] = {}  # an ordered set
        while len(unique) < num_examples:
            unique[sample_problem(split, rng, config)] = None
        prompts = list(unique)
    answers = [str(running_results(prompt)[-1]) for prompt in prompts]
    return Dataset.from_dict({"prompt": prompts, "answer": answers})


def _all_problems(split: Split, config: TaskConfig) -> list[str]:
    operations = map("".join, itertools.product(OPERATORS, DIGITS))
    chains = itertools.product(DIGITS, *itertools.tee(operations, config.num_operations))
    prompts = ("".join(chain) + "=" for chain in chains)
    return [prompt for prompt in prompts if split_of(prompt) == split]
