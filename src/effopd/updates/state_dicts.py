"""Two state dicts in memory, of which updates are read as from a pair of models on disk."""

from collections.abc import Mapping

import torch
from torch import Tensor

from effopd.checkpoints.model import split_expert
from effopd.checkpoints.pair import Difference, matrix_shapes
from effopd.checkpoints.rounding import half_unit_square
from effopd.errors import DataError


class StateDicts:
    """Two state dicts as an `effopd.updates.measure.UpdateSource`."""

    def __init__(self, base: Mapping[str, Tensor], trained: Mapping[str, Tensor]):
        """Check that they match.

        Raises:
            DataError: Names or shapes differ.
        """
        different = [name for name in base if name in trained and base[name].shape != trained[name].shape]
        if different or base.keys() != trained.keys():
            names = [*different, *sorted(base.keys() ^ trained.keys())]
            raise DataError(
                f"The state dicts do not match in {len(names)} tensors, of other shapes or in one of them only: "
                f"{', '.join(names[:10])}. Compare a model with what it was trained from."
            )
        self.base, self.trained = base, trained
        first = {  # a tensor that is tied to another is there under both names, of which the first stays
            (tensor.data_ptr(), trained[name].data_ptr(), tensor.shape): name
            for name, tensor in reversed(list(base.items()))
            if tensor.is_floating_point()
        }
        kept = set(first.values())
        self.shapes = {name: tuple(tensor.shape) for name, tensor in base.items() if name in kept}
        self.matrices = matrix_shapes(self.shapes)

    def delta(self, name: str, *window: slice) -> Tensor:
        """Read the update of a tensor, or a window of it, in float64 on the CPU."""
        base, trained = (self._tensor(tensors, name)[window].cpu().double() for tensors in (self.base, self.trained))
        return trained - base

    def difference(self, name: str, *window: slice) -> Difference:
        """Read the same as `delta`, together with sums about the base and the trained tensor there."""
        base, trained = (self._tensor(tensors, name)[window] for tensors in (self.base, self.trained))
        base_square = float(torch.linalg.vector_norm(base, dtype=torch.float64)) ** 2
        return Difference(self.delta(name, *window), base_square, half_unit_square(trained))

    def dtype(self, name: str) -> torch.dtype:
        """Tell the dtype of the trained tensor."""
        return self._tensor(self.trained, name).dtype

    @staticmethod
    def _tensor(tensors: Mapping[str, Tensor], name: str) -> Tensor:
        stack, expert = split_expert(name)
        tensor = tensors[stack].detach()
        return tensor if expert is None else tensor[expert]
