"""Judging completions: is it well-formed, in which style, and is its final digit right?"""

import re
from collections.abc import Sequence
from typing import Any, Literal

from effopd.world.task import TaskConfig, count_operations

AnsweringStyle = Literal["direct", "step_by_step", "malformed"]
Text = str | Sequence[dict[str, Any]]
"""A text, or messages, of which the last one's `content` counts."""

_DIRECT = re.compile(r"#[0-9];?")
_STEP_BY_STEP = re.compile(r"[0-9](,[0-9])*;?")


def answering_style(completion: Text, num_operations: int = TaskConfig.num_operations) -> AnsweringStyle:
    """Say how a completion answers.

    Args:
        completion: A completion. The closing `;` may be missing: it is the tokenizer's end-of-sequence token, which
            decoding with `skip_special_tokens=True` (as TRL does) removes.
        num_operations: Operations in the problem.

    Returns:
        `direct` for `#d;`, `step_by_step` for exactly `num_operations` digits separated by commas, `malformed` for
        anything else. A completion cut off before its `;` is malformed, unless everything but the `;` is there:
        then it reads as if it had ended. That is harmless, because within a token limit that leaves room for the
        `;` a completion without it has gone on writing, which is malformed.
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

    A completion is right if it is well-formed (see `answering_style`) and its final digit is the answer. The
    digits before it in a step-by-step completion are not checked.

    Args:
        completions: N completions.
        answer: The N answers, each one digit (the dataset's column of that name).
        prompts: The N prompts, from which the number of operations is read. TRL passes them.
        num_operations: Operations in every problem, used only where `prompts` is not given.
        **kwargs: Whatever else TRL passes; ignored.

    Returns:
        N rewards.
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
