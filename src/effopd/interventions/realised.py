"""How much of an intended update is left once the new weights are rounded to the dtype that holds them."""

import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from effopd.parameters import locate

WARN_ERROR = 0.05
"""Relative error of the realised update above which users are warned."""

MAX_ERROR = 0.01
"""Relative error of the realised update up to which the stored dtype is taken without being asked for."""

Dtype = Literal["float32", "stored"]
"""What holds an intervened model: float32, or the dtype in which the trained model is stored."""

_CHUNK = 1 << 16  # elements per piece: 512 kB in float64, which fits into a processor's cache
_CHUNK_ACCELERATOR = 1 << 22


class Realised(NamedTuple):
    """The intended update U of some weights, and the realised one, R = W_new - W_base, with W_new as it is held.

    Attributes:
        intended_norm: `||U||_F`.
        realised_norm: `||R||_F`.
        error_norm: `||R - U||_F`.
    """

    intended_norm: float = 0.0
    realised_norm: float = 0.0
    error_norm: float = 0.0

    @property
    def relative_error(self) -> float | None:
        """`||R - U|| / ||U||`; 0 where both updates are zero, and None where only the intended one is."""
        if self.intended_norm == 0:
            return 0.0 if self.error_norm == 0 else None
        return self.error_norm / self.intended_norm

    def with_more(self, other: "Realised") -> "Realised":
        """Take further weights into account."""
        return Realised(*map(math.hypot, self, other))


def held_dtype(stored: torch.dtype, dtype: Dtype) -> torch.dtype:
    """Return the dtype in which a weight is held: never a narrower one than that which it is stored in."""
    return torch.promote_types(stored, torch.float32) if dtype == "float32" and stored.is_floating_point else stored


def measure(base: Tensor, new: Tensor, intended: Callable[[slice], Tensor]) -> Realised:
    """Compare the realised update of a weight with the intended one.

    Args:
        base: W_base as stored, of any shape and floating dtype.
        new: W_new as it is held, of the same shape and on the same device.
        intended: Function from a slice of the flattened weight to U there, in float64.
    """
    squares = torch.zeros(3, dtype=torch.float64, device=new.device)
    for piece, realised in _differences(base, new):
        wanted = intended(piece)
        error = realised - wanted
        squares += torch.stack([torch.dot(each, each) for each in (wanted, realised, error)])
    return Realised(*squares.sqrt().tolist())


def _differences(base: Tensor, new: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Yield the pieces of two flattened weights, and W_new - W_base there in float64."""
    flat_base, flat_new = base.reshape(-1), new.reshape(-1)
    chunk = _CHUNK if new.device.type == "cpu" else _CHUNK_ACCELERATOR
    for start in range(0, new.numel(), chunk):
        piece = slice(start, start + chunk)
        yield piece, flat_new[piece].double().sub_(flat_base[piece])


def difference_norm(base: Tensor, trained: Tensor) -> float:
    """Compute `||W - W_base||_F` in float64, without holding the difference as a whole."""
    return math.hypot(*(float(torch.linalg.vector_norm(difference)) for _, difference in _differences(base, trained)))


class RealisedByKind:
    """Adds up what was realised of a model's update, weight by weight, for each module kind.

    Attributes:
        kinds: What was realised, by module kind.
    """

    def __init__(self) -> None:
        self.kinds: dict[str, Realised] = {}

    def add(self, name: str, realised: Realised) -> None:
        """Take a weight into account."""
        kind = locate(name).kind
        self.kinds[kind] = self.kinds.get(kind, Realised()).with_more(realised)

    @property
    def total(self) -> Realised:
        """What was realised of the whole model's update."""
        total = Realised()
        for realised in self.kinds.values():
            total = total.with_more(realised)
        return total

    def with_total(self) -> dict[str, Realised]:
        """What was realised of the whole model's update, as `total`, and of each module kind."""
        return {"total": self.total, **self.kinds}


def exceeds(realised: Realised, largest_error: float) -> bool:
    """Tell whether the relative error is larger than `largest_error`, or there was no update to be relative to."""
    error = realised.relative_error
    return error is None or error > largest_error


def warn_of_error(realised: Realised, what: str) -> None:
    """Warn if the relative error of a realised update is above `WARN_ERROR`.

    Args:
        realised: What was realised.
        what: Subject of the sentence, what holds the update: `The weights in bfloat16`.
    """
    if exceeds(realised, WARN_ERROR):
        error = realised.relative_error
        share = "and no update was intended" if error is None else f"by {error:.0%} of its norm"
        warnings.warn(
            f"{what} hold an update that differs from the intended one {share}, because of rounding. Take dtype "
            "float32.",
            stacklevel=3,
        )


def dtype_names(dtypes: Iterable[torch.dtype]) -> str:
    """Name the floating dtypes among some, each once and in alphabetical order: `bfloat16, float32`."""
    return ", ".join(sorted({str(dtype).removeprefix("torch.") for dtype in dtypes if dtype.is_floating_point}))
