"""The task: chains of modulo-10 operations, evaluated strictly left to right.

The prompt `7*3+4-9*2+5=` is a problem of five operations. Its running results are 7*3 = 1, 1+4 = 5, 5-9 = 6, 6*2 = 2
and 2+5 = 7, each taken modulo 10, so the answer is `7`. There are two ways to write it:

    direct           #7;
    step by step     1,5,6,2,7;     the running result after every operation; the last one is the answer

A base may learn some one-step facts (left, operator, right) wrongly, always with the same wrong result: see
`TaskConfig.num_unsure_facts`.

Every completion ends with `;`. A hash of the prompt decides which split a problem belongs to, so that no two splits
share a problem, whatever the seeds.
"""

import functools
import itertools
import random
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from datasets import Dataset

from effopd.checks import check_choice, check_number, check_whole
from effopd.errors import ConfigurationError

OPERATORS = "+-*"
DIGITS = "0123456789"

Split = Literal["train", "validation", "evaluation"]
SPLITS: tuple[Split, ...] = get_args(Split)
SecondSkill = Literal["direct_answer", "sorting"]
Fact = tuple[int, str, int]
"""A left operand, an operator and a right operand, whose result is one digit: `(7, "*", 3)`."""
NUM_FACTS = len(DIGITS) * len(OPERATORS) * len(DIGITS)


@dataclass(frozen=True)
class TaskConfig:
    """Difficulty of the problems, and the answers that the base learns from.

    Attributes:
        num_operations: Number of operations in a problem, at least 1. A prompt has `2 * num_operations + 2` characters.
        step_by_step_share: Share of the pretraining completions that are written step by step, in [0, 1]; the others
            are direct.
        noise: Probability that a digit of a pretraining completion is replaced by a uniformly drawn one, in [0, 1). The
            later running results are computed from the replaced one, as after a slip.
        num_unsure_facts: Number of one-step facts, of all 300, that pretraining does not always state rightly, 0 to
            300. More of them are more independent things for distillation to correct.
        fact_reliability: Probability that pretraining states an unsure fact rightly, in [0, 1]; otherwise it states a
            wrong result, always the same for the same fact. At 0 the base is certain of wrong facts.
        fact_seed: Random seed that chooses the unsure facts and their wrong results, at least 0.
        second_skill: Skill that distillation does not train, by which forgetting is measured: `direct_answer` is
            answering a problem at once when the prompt ends in `#` (`7*3+4-9*2+5=#`, completed by `7;`), and `sorting`
            is sorting digits (`#52713=`, completed by `12357;`).
        second_skill_share: Share of every pretraining batch that trains the second skill, in [0, 1). At 0, the base
            learns `direct_answer` from direct completions alone, if there are any.
        sorted_digits: Number of digits that a problem of `sorting` has, at least 1.

    Raises:
        ConfigurationError: A value is outside its range.
    """

    num_operations: int = 5
    step_by_step_share: float = 0.5
    noise: float = 0.02
    num_unsure_facts: int = 0
    fact_reliability: float = 1.0
    fact_seed: int = 0
    second_skill: SecondSkill = "direct_answer"
    second_skill_share: float = 0.0
    sorted_digits: int = 5

    def __post_init__(self) -> None:
        check_whole("num_operations", self.num_operations, 1)
        check_number("step_by_step_share", self.step_by_step_share, low=0, high=1)
        check_number("noise", self.noise, low=0, below=1)
        check_whole("num_unsure_facts", self.num_unsure_facts, 0, NUM_FACTS)
        check_number("fact_reliability", self.fact_reliability, low=0, high=1)
        check_whole("fact_seed", self.fact_seed, 0)
        check_choice("second_skill", self.second_skill, get_args(SecondSkill))
        check_number("second_skill_share", self.second_skill_share, low=0, below=1)
        check_whole("sorted_digits", self.sorted_digits, 1)

    @property
    def max_completion_length(self) -> int:
        """Length in tokens of the longest well-formed completion, with its `;`; at least the 3 of a direct one."""
        return max(2 * self.num_operations, 3)

    @property
    def num_problems(self) -> int:
        """Number of different problems in all splits together."""
        problems: int = len(DIGITS) * (len(OPERATORS) * len(DIGITS)) ** self.num_operations
        return problems


def sample_problem(split: Split, rng: random.Random, config: TaskConfig) -> str:
    """Draw a problem of a split uniformly, by rejection, and return its prompt, for example `7*3+4-9*2+5=`."""
    while True:
        operators = rng.choices(OPERATORS, k=config.num_operations)
        first, *others = rng.choices(DIGITS, k=config.num_operations + 1)
        prompt = first + "".join(map("".join, zip(operators, others, strict=True))) + "="
        if split_of(prompt) == split:
            return prompt


def split_of(prompt: str) -> Split:
    """Tell which split a problem belongs to, by the CRC-32 of its prompt modulo 10.

    A remainder of 0 means evaluation, 1 means validation, and any other means train.
    """
    bucket = zlib.crc32(prompt.encode("ascii")) % 10
    return "evaluation" if bucket == 0 else "validation" if bucket == 1 else "train"


def count_operations(prompt: str) -> int:
    """Count the operations in a prompt: 5 in `7*3+4-9*2+5=`."""
    return (len(prompt) - 2) // 2


def apply_operation(left: int, operator: str, right: int) -> int:
    """Compute `left operator right` modulo 10."""
    if operator == "+":
        return (left + right) % 10
    if operator == "-":
        return (left - right) % 10
    if operator == "*":
        return (left * right) % 10
    raise ValueError(f"operator: got {operator!r}, expected one of {', '.join(OPERATORS)}.")


def running_results(prompt: str) -> list[int]:
    """Compute the result after each operation of a prompt, modulo 10; the last one is the answer."""
    results = []
    value = int(prompt[0])
    for operator, digit in zip(prompt[1:-1:2], prompt[2:-1:2], strict=True):
        value = apply_operation(value, operator, int(digit))
        results.append(value)
    return results


@functools.cache
def unsure_facts(config: TaskConfig) -> Mapping[Fact, int]:
    """Choose the unsure facts, and for each of them the wrong result that pretraining states at times."""
    rng = random.Random(config.fact_seed)
    facts = [
        (int(left), operator, int(right)) for left, operator, right in itertools.product(DIGITS, OPERATORS, DIGITS)
    ]
    chosen = rng.sample(facts, config.num_unsure_facts)
    return {fact: (apply_operation(*fact) + rng.randrange(1, 10)) % 10 for fact in chosen}


def write_completion(prompt: str, rng: random.Random, config: TaskConfig) -> str:
    """Write a pretraining completion, which ends in `;`. Its style, wrong facts and slips are drawn from `rng`."""
    wrong = unsure_facts(config)

    def recall(fact: Fact) -> int:
        states_wrong = fact in wrong and rng.random() >= config.fact_reliability
        return wrong[fact] if states_wrong else apply_operation(*fact)

    def maybe_slip(digit: int) -> int:
        return rng.randrange(10) if rng.random() < config.noise else digit

    is_direct = rng.random() >= config.step_by_step_share
    results = []
    value = int(prompt[0])
    for operator, digit in zip(prompt[1:-1:2], prompt[2:-1:2], strict=True):
        value = recall((value, operator, int(digit)))
        if not is_direct:
            value = maybe_slip(value)
        results.append(str(value))
    return f"#{maybe_slip(value)};" if is_direct else ",".join(results) + ";"


def make_dataset(split: Split, num_examples: int, seed: int = 0, config: TaskConfig | None = None) -> Dataset:
    """Make a dataset of different problems from one split.

    Args:
        split: Name of the split: `train`, `validation` or `evaluation`, with 80, 10 and 10 % of all problems.
        num_examples: Number of problems, at least 1.
        seed: Random seed for drawing the problems. The same arguments always give the same dataset.
        config: Settings of the task; the default task if None.

    Returns:
        A dataset for TRL's trainers, with the text columns `prompt` (`7*3+4-9*2+5=`) and `answer` (`7`).

    Raises:
        ConfigurationError: The split is unknown, or it has fewer than `num_examples` problems.
    """
    config = config or TaskConfig()
    check_choice("split", split, SPLITS)
    check_whole("num_examples", num_examples, 1)
    rng = random.Random(seed)
    prompts: list[str]
    if 20 * num_examples > config.num_problems:  # drawing might not find enough new ones: list the split
        prompts = _all_problems(split, config)
        if num_examples > len(prompts):
            raise ConfigurationError(
                f"num_examples: got {num_examples}, but the {split} split has only {len(prompts)} different problems"
                f" at num_operations={config.num_operations}. Ask for fewer, or use more operations."
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
