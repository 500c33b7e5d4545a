"""When to extrapolate: a schedule is a function from the number of optimizer steps done to yes or no."""

from collections.abc import Callable, Sequence

from effopd.errors import ConfigurationError

Schedule = Callable[[int], bool]


def powers_of_two(step: int) -> bool:
    """True after steps 1, 2, 4, 8, ... (arXiv 2605.11739, EffOPD: t = 2^n)."""
    return step > 0 and step & (step - 1) == 0


def every(period: int, first: int | None = None) -> Schedule:
    """True after steps `first`, `first + period`, ...; `first` defaults to `period`."""
    first = period if first is None else first
    if period < 1 or first < 1:
        raise ConfigurationError(
            f"A schedule of every {period} steps from step {first} was asked for; both must be at least 1."
        )
    return lambda step: step >= first and (step - first) % period == 0


def at(steps: Sequence[int]) -> Schedule:
    """True after exactly the given steps, each at least 1."""
    chosen = frozenset(steps)
    if not chosen or min(chosen) < 1 or not all(isinstance(step, int) for step in chosen):
        raise ConfigurationError(f"A schedule needs step numbers, whole and at least 1; got {list(steps)}.")
    return lambda step: step in chosen


def parse_schedule(spec: str | Sequence[int]) -> Schedule:
    """Read a schedule as configs write it.

    Args:
        spec: `powers_of_two`; `every:PERIOD` or `every:PERIOD:FIRST`; or a list of step numbers.

    Raises:
        ConfigurationError: The text is none of these.
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
