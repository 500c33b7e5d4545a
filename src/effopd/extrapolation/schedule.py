"""When to extrapolate: a schedule is a function that says, given the number of steps done, whether to."""

from collections.abc import Callable, Sequence
from typing import Any

from effopd.errors import ConfigurationError

Schedule = Callable[[int], bool]


def powers_of_two(step: int) -> bool:
    """Extrapolate after steps 1, 2, 4, 8 and so on (arXiv 2605.11739, EffOPD: t = 2^n)."""
    return step > 0 and step & (step - 1) == 0


def every(period: int, first: int | None = None) -> Schedule:
    """Make a schedule of the steps `first`, `first + period` and so on; `first` defaults to `period`.

    Raises:
        ConfigurationError: One of the numbers is less than 1.
    """
    first = period if first is None else first
    if period < 1 or first < 1:
        raise ConfigurationError(
            f"A schedule of every {period} steps from step {first} was asked for; both must be at least 1."
        )
    return lambda step: step >= first and (step - first) % period == 0


def at(steps: Sequence[int]) -> Schedule:
    """Make a schedule of exactly the given steps.

    Raises:
        ConfigurationError: There are no steps, or one is not a whole number of at least 1.
    """
    chosen = frozenset(steps)
    if not chosen or min(chosen) < 1 or not all(isinstance(step, int) for step in chosen):
        raise ConfigurationError(f"A schedule needs step numbers, whole and at least 1; got {list(steps)}.")
    return lambda step: step in chosen


def parse_schedule(spec: str | Sequence[int]) -> Schedule:
    """Read a schedule as configurations write it.

    Args:
        spec: Name of a schedule, `powers_of_two`, `every:PERIOD` or `every:PERIOD:FIRST`; or a list of step numbers.

    Raises:
        ConfigurationError: The schedule is none of these, or a number is less than 1.
    """
    if not isinstance(spec, str):
        return at(spec)
    if spec == "powers_of_two":
        return powers_of_two
    name, *numbers = spec.split(":")
    if name == "every" and len(numbers) in (1, 2) and all(number.isdecimal() for number in numbers):
        return every(*map(int, numbers))
    raise ConfigurationError(
        f"The schedule {spec!r} is not known. Use 'powers_of_two', 'every:PERIOD', 'every:PERIOD:FIRST' "
        "or a list of step numbers."
    )


def check_schedule(triggers: Schedule, schedule: Any, max_steps: int, first: int = 1) -> None:
    """Refuse a schedule by which a training of `max_steps` steps would never extrapolate.

    A training of a single step is to try everything out, and may have that step in its schedule whatever is `first`.

    Raises:
        ConfigurationError: No step from `first`, the first at which that is possible, to `max_steps` is in it.
    """
    if not any(triggers(step) for step in range(min(first, max_steps), max_steps + 1)):
        before = "" if first == 1 else f", of which step {first} is the first that can extrapolate"
        raise ConfigurationError(
            f"schedule={schedule!r} has no step among the {max_steps} of this training{before}, so nothing would be "
            "extrapolated. Give other steps, or train longer."
        )
