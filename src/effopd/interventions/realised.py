"""How much of an intended update is left once the new weights are rounded to the dtype that holds them."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from effopd.parameters import locate

WARN_ERROR = 0.05
"""Relative error of the realised update above which users are warned."""

MAX_ERROR = 0.01
"""Relative error of the realised update up to which the stored dtype is taken without being asked for."""

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


def measure(base: Tensor, new: Tensor, intended: Callable[[slice], Tensor]) -> Realised:
    """Compare the realised update of a weight with the intended one.

    Args:
        base: W_base as stored, of any shape and floating dtype.
        new: W_new as it is held, of the same shape and on the same device.
        intended: Function from a slice of the flattened weight to U there, in float64.
    """
    flat_base, flat_new = base.reshape(-1), new.reshape(-1)
    squares = torch.zeros(3, dtype=torch.float64, device=new.device)
    chunk = _CHUNK if new.device.type == "cpu" else _CHUNK_ACCELERATOR
    for start in range(0, new.numel(), chunk):
        piece = slice(start, start + chunk)
        wanted, realised = intended(piece), flat_new[piece].double().sub_(flat_base[piece])
        error = realised - wanted
        squares += torch.stack([torch.dot(each, each) for each in (wanted, realised, error)])
    return Realised(*squares.sqrt().tolist())


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
