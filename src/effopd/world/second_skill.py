"""The second skill: what the base can do beside its task, and what distillation on the task may make it forget.

    direct_answer    7*3+4-9*2+5=#    7;          the answer at once, on demand
    sorting          #52713=          12357;      the digits in ascending order

No problem of the task begins with `#` or ends in it, so neither kind of prompt is ever taken for the other.
"""

import random

from datasets import Dataset

from effopd.checks import check_choice, check_whole
from effopd.errors import ConfigurationError
from effopd.world.task import DIGITS, SPLITS, Split, TaskConfig, running_results, sample_problem, split_of


def sample_second_problem(split: Split, rng: random.Random, config: TaskConfig) -> str:
    """Draw a prompt of the second skill from a split uniformly, by rejection."""
    if config.second_skill == "direct_answer":
        return sample_problem(split, rng, config) + "#"
    while True:
        prompt = f"#{''.join(rng.choices(DIGITS, k=config.sorted_digits))}="
        if split_of(prompt) == split:
            return prompt


def second_answer(prompt: str) -> str:
    """Return the right completion of a prompt of the second skill, without its closing `;`."""
    if prompt.startswith("#"):
        return "".join(sorted(prompt[1:-1]))
    return str(running_results(prompt.removesuffix("#"))[-1])


def second_completion_length(config: TaskConfig) -> int:
    """Return the number of tokens in a right completion of the second skill, with its `;`."""
    return 2 if config.second_skill == "direct_answer" else config.sorted_digits + 1


def make_second_dataset(split: Split, num_examples: int, seed: int = 0, config: TaskConfig | None = None) -> Dataset:
    """Make a dataset of different problems of the second skill from one split.

    Args:
        split: Name of the split: `train`, `validation` or `evaluation`, with 80, 10 and 10 % of all problems.
        num_examples: Number of problems, at least 1 and at most half of the split's.
        seed: Random seed for drawing the problems. The same arguments always give the same dataset.
        config: Settings of the task; the default task if None.

    Returns:
        A dataset with the text columns `prompt` (`#52713=`) and `answer` (`12357`).

    Raises:
        ConfigurationError: The split is unknown, or it has too few problems.
    """
    config = config or TaskConfig()
    check_choice("split", split, SPLITS)
    check_whole("num_examples", num_examples, 1)
    num_problems = config.num_problems if config.second_skill == "direct_answer" else 10**config.sorted_digits
    if 20 * num_examples > num_problems:
        raise ConfigurationError(
            f"num_examples: got {num_examples}, but {config.second_skill} has only {num_problems} different problems in"
            f" all splits, of which at most {num_problems // 20} are drawn. Ask for fewer, or for longer problems."
        )
    rng = random.Random(seed)
    unique: dict[str, None] = {}  # an ordered set
    while len(unique) < num_examples:
        unique[sample_second_problem(split, rng, config)] = None
    prompts = list(unique)
    return Dataset.from_dict({"prompt": prompts, "answer": [second_answer(prompt) for prompt in prompts]})
