"""What a grader says of a completion."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Completion = str | Sequence[dict[str, Any]]
"""A text, or a conversational completion: messages, of which the last one's `content` is judged."""

_THINKING_END = re.compile(r"""(?<!['"])</think>|</think>(?!['"])""")  # in a program, it may be a string

TIME_LIMIT = "time limit"
"""The kind of every verdict that a limit on time decided."""


@dataclass(frozen=True)
class Verdict:
    """Whether a completion is right.

    Attributes:
        passed: Whether it is.
        kind: `passed`, or why not in a few fixed words: `wrong answer`, `time limit`, `runtime error`, ...
        detail: More about that, possibly empty.
        seconds: By the clock, that grading it took.
    """

    passed: bool
    kind: str
    detail: str = ""
    seconds: float = 0.0

    @property
    def reason(self) -> str:
        """`kind`, and `detail` after a colon where there is one."""
        return f"{self.kind}: {self.detail}" if self.detail else self.kind


def completion_text(completion: Completion) -> str:
    """The text to judge."""
    return completion if isinstance(completion, str) else str(completion[-1].get("content") or "")


def without_thinking(text: str) -> str:
    """What comes after the last `</think>` that is not in quotation marks; everything if there is none."""
    return _THINKING_END.split(text)[-1]
