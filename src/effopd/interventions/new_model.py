"""The tensors of an intervened model on its way to disk, and the choice of the dtype that they are written in."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from effopd.checkpoints import Pair
from effopd.interventions.pair_source import PairSource
from effopd.interventions.realised import MAX_ERROR, Dtype, RealisedByKind, dtype_names, exceeds, held_dtype
from effopd.interventions.update import Intervention, new_tensor, new_updates


class NewModel:
    """The tensors of the intervened model, one after the other, and what they hold of the intended update.

    Args:
        pair: The base and the trained model.
        interventions: Interventions, applied one after the other.
        source: Reader of the weights of `pair`.
        progress: Function that is called before each tensor, with its name and the number of all tensors.

    Attributes:
        realised: What the tensors that were made last hold, by module kind.
        if_stored: What they would hold in the stored dtype.
    """

    def __init__(
        self,
        pair: Pair,
        interventions: Sequence[Intervention],
        source: PairSource,
        progress: Callable[[str, int], None] | None = None,
    ) -> None:
        self._pair, self._interventions, self._source, self._progress = pair, interventions, source, progress
        self._num_begun = 0
        self._begin()

    def _begin(self) -> None:
        self.realised, self.if_stored = RealisedByKind(), RealisedByKind()
        self._num_equal = self._num_elements = 0.0
        self._dtypes: dict[torch.dtype, None] = {}

    def write(self, write: Callable[[Iterable[tuple[str, Tensor]]], None], dtype: Dtype | None) -> None:
        """Write the new model, in the dtype that its update needs.

        Whether the stored dtype will do is known only at the end. So it is tried first, and given up at the first
        tensor for which it will not do. Only if that tensor hardly counts in the whole is it tried again at the end.

        Args:
            write: Function that writes a model from the names and tensors that it gets, in the place of what an earlier
                call of it has written.
            dtype: Dtype to write. By default, float32 where the stored dtype would lose more than `MAX_ERROR`.
        """
        if dtype is not None or not self._can_be_wider():
            write(self._tensors(dtype or "stored"))
            return
        try:
            write(self._tensors("stored", largest_error=MAX_ERROR))
        except _LargeErrorError:
            write(self._tensors("float32"))
            if not exceeds(self.if_stored.total, MAX_ERROR):
                write(self._tensors("stored"))

    def record(self) -> dict[str, Any]:
        """Return the part of the record about the numbers in the model that was written."""
        kinds, if_stored = self.realised.with_total(), self.if_stored.with_total()
        return {
            "dtype": dtype_names(self._dtypes),
            "stored_dtype": dtype_names(map(self._source.dtype, self._pair.names)),
            "changed_fraction": 1 - self._num_equal / max(self._num_elements, 1),
            "intended_norm": {kind: each.intended_norm for kind, each in kinds.items()},
            "realised_norm": {kind: each.realised_norm for kind, each in kinds.items()},
            "relative_error": {kind: each.relative_error for kind, each in kinds.items()},
            "relative_error_if_stored": {kind: each.relative_error for kind, each in if_stored.items()},
        }

    def _can_be_wider(self) -> bool:
        dtypes = map(self._source.dtype, self._pair.names)
        return any(held_dtype(stored, "float32") != stored for stored in dtypes)

    def _tensors(self, dtype: Dtype, *, largest_error: float | None = None) -> Iterator[tuple[str, Tensor]]:
        self._begin()
        total = self._num_begun + len(self._pair.names)
        for name, shape in self._pair.shapes.items():
            self._num_begun += 1
            if self._progress:
                self._progress(name, total)
            updates = new_updates(name, shape, self._interventions, self._source)
            stored = self._source.dtype(name)
            held = held_dtype(stored, dtype)
            new = new_tensor(name, updates, held, stored)
            if largest_error is not None and exceeds(new.realised, largest_error):
                raise _LargeErrorError
            self.realised.add(name, new.realised)
            self.if_stored.add(name, new.if_stored)
            self._num_equal += self._pair.unchanged_fraction(name) * new.tensor.numel()
            self._num_elements += new.tensor.numel()
            self._dtypes[held] = None
            yield name, new.tensor


class _LargeErrorError(Exception):
    """A tensor's realised update has a larger relative error than is wanted."""
