"""Grading completions of the embedded world."""

from collections.abc import Sequence

from effopd.grading.verdict import Verdict
from effopd.world import TaskConfig, answering_style, world_reward


def grade_world(
    completions: Sequence[str], answers: Sequence[str], num_operations: int = TaskConfig.num_operations
) -> list[Verdict]:
    """Grade completions of the embedded world by its reward.

    Args:
        completions: N texts.
        answers: N right answers.
        num_operations: Number of operations in every problem.

    Returns:
        N verdicts: `passed`, `wrong answer`, or `malformed` for a completion that does not have the form of an answer.
    """
    verdicts = []
    rewards = world_reward(completions, answers, num_operations=num_operations)
    for completion, reward in zip(completions, rewards, strict=True):
        malformed = answering_style(completion, num_operations) == "malformed"
        kind = "passed" if reward else "malformed" if malformed else "wrong answer"
        verdicts.append(Verdict(reward == 1.0, kind))
    return verdicts
