"""Judging a completion: whether it is well-formed, in which style it answers, and whether its last digit is right."""

import re
from collections.abc import Sequence
from typing import Any, Literal

from effopd.world.task import TaskConfig, count_operations

AnsweringStyle = Literal["direct", "step_by_step", "malformed"]
Text = str | Sequence[dict[str, Any]]
"""A text, or a list of messages, of which only the last one's `content` counts."""

_DIRECT = re.compile(r"#[0-9];?")
_STEP_BY_STEP = re.compile(r"[0-9](,[0-9])*;?")


def answering_style(completion: Text, num_operations: int = TaskConfig.num_operations) -> AnsweringStyle:
    """Say in which style a completion answers.

    Args:
        completion: Completion to judge. Its closing `;` may be missing: that is the tokenizer's end-of-sequence token,
            which decoding with `skip_special_tokens=True` removes, as TRL does.
        num_operations: Number of operations in the problem.

    Returns:
        `direct` for `#d;`, `step_by_step` for exactly `num_operations` digits separated by commas, and `malformed` for
        anything else. A completion that was cut off just before its `;` reads as if it had ended. This does no harm if
        the token limit leaves room for the `;`: a completion that reaches such a limit went on writing after its
        answer, and is malformed.
    """
    text = _text(completion)
    if _DIRECT.fullmatch(text):
        return "direct"
    if _STEP_BY_STEP.fullmatch(text) and text.count(",") + 1 == num_operations:
        return "step_by_step"
    return "malformed"


def world_reward(
    completions: Sequence[Text],
    answer: Sequence[str],
    prompts: Sequence[Text] | None = None,
    num_operations: int = TaskConfig.num_operations,
    **kwargs: Any,
) -> list[float]:
    """Reward right answers with 1.0 and everything else with 0.0; a reward function for TRL.

    A completion is right if it is well-formed (see `answering_style`) and its last digit is the answer. The earlier
    digits of a step-by-step completion are not checked.

    Args:
        completions: Completions of N problems.
        answer: Answers of the N problems, one digit each; the dataset's column of that name.
        prompts: Prompts of the N problems, which tell the numbers of operations. TRL passes them.
        num_operations: Number of operations in every problem, if there are no `prompts`.
        **kwargs: Other arguments that TRL passes; they are ignored.

    Returns:
        N rewards, each 0.0 or 1.0.
    """
    if prompts is None:
        lengths = [num_operations] * len(completions)
    else:
        lengths = [count_operations(_text(prompt)) for prompt in prompts]
    rewards = []
    for completion, expected, length in zip(completions, answer, lengths, strict=True):
        well_formed = answering_style(completion, length) != "malformed"
        rewards.append(float(well_formed and _text(completion).rstrip(";")[-1] == expected))
    return rewards


def _text(completion: Text) -> str:
    return completion if isinstance(completion, str) else str(completion[-1]["content"])
