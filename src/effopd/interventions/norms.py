"""Frobenius norms of a model's update, weight by weight, to which the updates of other models are scaled."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from effopd.checkpoints import Pair, open_pair
from effopd.errors import DataError
from effopd.interventions.update import NormReference, weights_in
from effopd.updates.blocks import row_windows


class UpdateNorms(Mapping[str, float]):
    """The Frobenius norm of each weight's update, by the weight's name; `name[expert]` for the experts of a stack.

    A norm is computed when it is first asked for, and then kept.

    Args:
        pair: The base and the model trained from it.
    """

    def __init__(self, pair: Pair) -> None:
        self._pair = pair
        self._names = {part: None for name, shape in pair.shapes.items() for part in weights_in(name, shape)}
        self._norms: dict[str, float] = {}

    def __getitem__(self, name: str) -> float:
        if name not in self._norms:
            if name not in self._names:
                raise KeyError(name)
            size = self._pair.matrices.get(name)
            parts = [self._pair.delta(name)] if size is None else self._windows(name, size)
            self._norms[name] = math.hypot(*(float(torch.linalg.vector_norm(part)) for part in parts))
        return self._norms[name]

    def _windows(self, name: str, size: tuple[int, int]) -> Iterator[Tensor]:
        """Read the update of a matrix a few rows at a time, since that of an embedding takes gigabytes."""
        return (self._pair.delta(name, window) for window in row_windows(size))

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def update_norms(base: str | Path, trained: str | Path) -> UpdateNorms:
    """Open two models for the Frobenius norms of `W - W_base`, for `TopComponents.norm_like` and `NormMatch.final`.

    Args:
        base: Directory or hub name of the base.
        trained: Directory or hub name of a model or adapter trained from it.

    Raises:
        DataError: The models cannot be read, or do not match.
    """
    return UpdateNorms(open_pair(base, trained))


class NormLookup:
    """The norms of the models that interventions refer to. Each model is opened once.

    Args:
        base: Directory or hub name of the base that the models are compared with. None if the base is in memory only;
            norms must then be given as numbers.
    """

    def __init__(self, base: str | Path | None) -> None:
        self._base = base
        self._opened: dict[str, UpdateNorms] = {}

    def norm(self, model: NormReference, name: str) -> float:
        """Find the Frobenius norm of a model's update of one weight.

        Args:
            model: The model, or its norms by name.
            name: Name of the weight, `name[expert]` for one expert of a stack.

        Raises:
            DataError: The model cannot be opened, or has no such weight.
        """
        norms = model if isinstance(model, Mapping) else self._open(str(model))
        if name not in norms:
            raise DataError(f"There is no norm for {name}; expected one for each weight, as update_norms() gives them.")
        return norms[name]

    def _open(self, model: str) -> UpdateNorms:
        if model not in self._opened:
            if self._base is None:
                raise DataError(
                    f"Got {model} to take norms from, and a base that is in memory. Pass update_norms(base, {model!r}) "
                    "instead, with the base's directory."
                )
            self._opened[model] = update_norms(self._base, model)
        return self._opened[model]
