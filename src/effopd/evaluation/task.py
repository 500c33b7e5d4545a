"""A task: problems, and how they are graded."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from effopd.checks import check_whole
from effopd.errors import DataError
from effopd.evaluation.prompts import Prompt
from effopd.grading import Verdict, grade_code
from effopd.grading.functions import grade_functions
from effopd.sandbox import check_sandbox

Grader = Callable[[Sequence[str], Sequence[Any]], list[Verdict]]
"""From N completions and N answers to N verdicts."""


@dataclass(frozen=True)
class Task:
    """Problems and how they are graded.

    Attributes:
        name: Name that `load_task` was given.
        prompts: N texts, which a model continues, or lists of messages, which its chat template renders.
        answers: What the grader compares completions of each prompt with, N in all.
        grader: Function that grades completions.
        max_new_tokens: Limit on the tokens of a completion, at least 1.
        chat_template_kwargs: What the chat template is given besides the messages, by name.

    Raises:
        ConfigurationError: `max_new_tokens` is out of its range.
        DataError: There are no prompts, or not as many answers as prompts.
    """

    name: str
    prompts: list[Prompt]
    answers: list[Any]
    grader: Grader
    max_new_tokens: int
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.prompts) != len(self.answers) or not self.prompts:
            raise DataError(
                f"{self.name}: got {len(self.prompts)} prompts and {len(self.answers)} answers; expected as many of"
                " each, and at least one."
            )
        check_whole("max_new_tokens", self.max_new_tokens, 1)

    def check_grader(self) -> None:
        """Check that completions can be graded, before any are sampled.

        Raises:
            UnsupportedError: Completions are programs, and there is no working sandbox.
        """
        if self.grader in (grade_code, grade_functions):
            check_sandbox()

    def as_chat(
        self, system_prompt: str | None = None, chat_template_kwargs: Mapping[str, Any] | None = None
    ) -> "Task":
        """Return the same task with every text prompt turned into the message of a user.

        Args:
            system_prompt: Text of a system's message that comes first in every prompt; None for none.
            chat_template_kwargs: What the chat template is given besides the messages, by name.

        Raises:
            DataError: There is a system prompt, and a prompt has a system's message already.
        """
        messages: list[list[dict[str, Any]]] = [
            [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt for prompt in self.prompts
        ]
        if system_prompt is not None:
            for index, prompt in enumerate(messages):
                if prompt[0].get("role") == "system":
                    raise DataError(
                        f"{self.name}, prompt {index} (from 0) has a system message of its own, and a system prompt is"
                        " given, too. Leave out one of them."
                    )
            messages = [[{"role": "system", "content": system_prompt}, *prompt] for prompt in messages]
        return replace(self, prompts=list(messages), chat_template_kwargs=dict(chat_template_kwargs or {}))
