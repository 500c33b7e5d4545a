"""The part of a completion that is graded."""

import re
from collections.abc import Sequence
from typing import Any

Completion = str | Sequence[dict[str, Any]]
"""A text, or a conversational completion: a list of messages, of which the last one's `content` is graded."""

_THINKING_END = re.compile(r"""(?<!['"])</think>|</think>(?!['"])""")  # in quotation marks, it may be part of a program


def completion_text(completion: Completion) -> str:
    """Return the text of a completion."""
    return completion if isinstance(completion, str) else str(completion[-1].get("content") or "")


def without_thinking(text: str) -> str:
    """Return what comes after the last `</think>` that is not in quotation marks; the whole text if there is none."""
    return _THINKING_END.split(text)[-1]
