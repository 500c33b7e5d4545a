"""What a claim is: a sentence, and the one number by which each run of a study speaks for or against it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from effopd.study.records import Need, Records

Direction = Literal["above", "below", "within"]
PAPER = "arXiv 2605.11739"


class Bound(float):
    """A value of a statistic of which only a bound is known.

    Attributes:
        is_lower: Whether the true value is at least this one; otherwise it is at most this one.
        why: What made the true value unknown.
    """

    is_lower: bool
    why: str

    def __new__(cls, value: float, is_lower: bool, why: str) -> "Bound":
        """Make a number that knows to be a bound."""
        bound = super().__new__(cls, value)
        bound.is_lower, bound.why = is_lower, why
        return bound


@dataclass(frozen=True)
class Claim:
    """A claim that a study tests.

    Attributes:
        name: Short name, a word of the reports' tables.
        theme: Heading under which the report shows it.
        statement: The claim as a plain sentence.
        source: Who claims it, and where.
        statistic: The number that is computed for each seed of each world, in words.
        threshold: Number that the mean of the statistic is held against.
        direction: Where the mean has to lie for the claim to hold: `above` or `below` the threshold, or `within` the
            threshold on either side of 0.
        needs: Records that the statistic is computed from.
        measure: Function that computes it for one seed of a world. It returns a `Bound` where that is all that is
            known, and raises `UnresolvedError` where the records do not determine it.
        is_ratio: Whether the statistic is a ratio, which is above 0 and of which logarithms are averaged.
        digits: Number of decimals that reports show.
        over_worlds: Function that computes the statistic for one seed from all worlds together, in place of `measure`;
            it raises `UnresolvedError` where there are too few of them.
    """

    name: str
    theme: str
    statement: str
    source: str
    statistic: str
    threshold: float
    direction: Direction
    needs: tuple[Need, ...]
    measure: Callable[[Records, int], float]
    is_ratio: bool = False
    digits: int = 3
    over_worlds: Callable[[Sequence[Records], int], float] | None = None

    def in_words(self) -> str:
        """Say in words what the claim predicts of the mean of its statistic."""
        limit = f"{self.threshold:g}"
        return f"between -{limit} and {limit}" if self.direction == "within" else f"{self.direction} {limit}"

    def to_json(self) -> dict[str, Any]:
        """Return what was written down before the runs, as JSON can hold it."""
        written = ("name", "theme", "statement", "source", "statistic", "threshold", "direction", "is_ratio", "digits")
        return {field: getattr(self, field) for field in written} | {"predicted": self.in_words()}
