"""What a grader says of a completion."""

from dataclasses import dataclass

TIME_LIMIT = "time limit"
"""The kind of every verdict that a limit on time decided."""


@dataclass(frozen=True)
class Verdict:
    """Whether a completion is right, and why not.

    Attributes:
        passed: Whether the completion is right.
        kind: `passed`, or why not in a few fixed words: `wrong answer`, `time limit`, `runtime error`, ...
        detail: Details of that, possibly empty.
        seconds: Seconds by the clock that grading took.
    """

    passed: bool
    kind: str
    detail: str = ""
    seconds: float = 0.0

    @property
    def reason(self) -> str:
        """`kind`, followed by a colon and `detail` if there is one."""
        return f"{self.kind}: {self.detail}" if self.detail else self.kind
