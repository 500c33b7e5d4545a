"""One weight's update on its way through a list of interventions: a number times a tensor, read only when needed.

Most interventions multiply the update of a weight by a number; 0 and 1 stand for the base's and the trained weight as
they are stored, bit for bit. So a list of interventions runs over each weight without reading it, until one has to.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from effopd.errors import UnsupportedError
from effopd.interventions.scale import add_scaled, scale_towards
from effopd.interventions.truncate import Decomposition, decompose
from effopd.parameters import locate

NormReference = str | Path | Mapping[str, float]
"""A model whose update's norms are wanted, or those norms by name, as `update_norms` gives them."""


class Source(Protocol):
    """A base and a trained model, by tensor name or, for one expert of a stack, `name[expert]`."""

    @property
    def tied_heads(self) -> frozenset[str]:
        """Output heads that are their embedding, though they are stored by a name of their own."""

    def base(self, name: str) -> Tensor:
        """W_base as stored."""

    def trained(self, name: str) -> Tensor:
        """W as stored; the merged weight of an adapter."""

    def dtype(self, name: str) -> torch.dtype:
        """Dtype of `trained(name)`."""

    def delta(self, name: str) -> Tensor:
        """The update dW in float64."""

    def is_difference(self, name: str) -> bool:
        """Whether that is `trained(name)` minus `base(name)`, as they are stored."""

    def decomposition(self, name: str, update: Tensor, num_vectors: Callable[[int], int]) -> Decomposition:
        """Of `update`, which is `delta(name)`, with as many singular vectors at least as follow from its rank."""

    def norm(self, model: NormReference, name: str) -> float:
        """Frobenius norm of another model's update of this weight."""


class Weight:
    """One weight before and after training; its update is read once, when asked for.

    Args:
        name: Tensor name, or `name[expert]`.
        shape: Its shape.
        source: Where to read it.
    """

    def __init__(self, name: str, shape: tuple[int, ...], source: Source) -> None:
        self.name, self.shape, self.source = name, shape, source

    @cached_property
    def delta(self) -> Tensor:
        """The update dW, float64."""
        return self.source.delta(self.name)


@dataclass(frozen=True, eq=False)
class Update:
    """`coefficient * tensor`, what is to be added to a weight's base.

    Attributes:
        weight: The weight.
        coefficient: A finite number.
        replaced: float64; None where `tensor` still is dW, the update that training made.
    """

    weight: Weight
    coefficient: float = 1.0
    replaced: Tensor | None = None

    @property
    def tensor(self) -> Tensor:
        """The update without its coefficient, float64."""
        return self.weight.delta if self.replaced is None else self.replaced

    @property
    def is_trained(self) -> bool:
        """Whether this is training's own update."""
        return self.coefficient == 1 and self.replaced is None

    def times(self, factor: float) -> "Update":
        """This update times a number."""
        return replace(self, coefficient=self.coefficient * factor)

    def with_tensor(self, tensor: Tensor) -> "Update":
        """The same coefficient times another tensor."""
        return replace(self, replaced=tensor)

    def norm(self) -> float:
        """Frobenius norm, in float64."""
        return abs(self.coefficient) * float(torch.linalg.vector_norm(self.tensor)) if self.coefficient else 0.0

    def decomposition(self, num_vectors: Callable[[int], int]) -> Decomposition:
        """Of `tensor`, with as many singular vectors at least as follow from its rank."""
        if self.replaced is None:
            return self.weight.source.decomposition(self.weight.name, self.tensor, num_vectors)
        return decompose(self.tensor)

    def new_weight(self) -> Tensor:
        """`W_base` with this update, in the trained model's dtype.

        The trained weight as it is stored for training's own update, the base's for a coefficient of 0 (rounded once,
        should the dtypes differ); otherwise computed in float64 and rounded once.

        Raises:
            DataError: The result is not finite.
            UnsupportedError: The weight is of no floating dtype, and training changed it.
        """
        source, name = self.weight.source, self.weight.name
        dtype = source.dtype(name)
        if self.is_trained:
            return source.trained(name)
        if not dtype.is_floating_point:
            trained = source.trained(name)
            if not torch.equal(trained, source.base(name)):
                raise UnsupportedError(
                    f"{name} is {dtype} and differs between base and trained; only floating-point weights can be "
                    "scaled or truncated. Give both models the same value."
                )
            return trained
        if self.coefficient == 0:
            return source.base(name).to(dtype)
        if self.replaced is None and "delta" not in vars(self.weight) and source.is_difference(name):
            return scale_towards(source.base(name), source.trained(name), self.coefficient, dtype)
        return add_scaled(source.base(name), self.tensor, self.coefficient, dtype)


class Intervention(Protocol):
    """What changes a model's update, weight by weight."""

    def check(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Raise ConfigurationError if a model of these tensors has nothing that it could change."""

    def apply(self, update: Update) -> Update:
        """The changed update of one weight."""


def units(name: str, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """The weights that a stored tensor holds, by name with their shapes: the experts of a 3-D stack one by one."""
    if len(shape) == 3 and locate(name).kind == "mlp":
        return {f"{name}[{expert}]": shape[1:] for expert in range(shape[0])}
    return {name: shape}


def is_matrix(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a weight is an attention or MLP matrix: what truncations are about, here and in the analysis."""
    return len(shape) == 2 and not name.endswith("bias") and locate(name).kind in ("attention", "mlp")


class NewTensor(NamedTuple):
    """A tensor of the intervened model.

    Attributes:
        tensor: As it is to be stored.
        is_trained: Whether it is the trained model's own.
        norm: Frobenius norm of its update before rounding; None if not asked for.
    """

    tensor: Tensor
    is_trained: bool
    norm: float | None


def new_tensor(
    name: str,
    shape: tuple[int, ...],
    interventions: Iterable[Intervention],
    source: Source,
    *,
    measure: bool = False,
) -> NewTensor:
    """Apply interventions, the first one first, to the update of one stored tensor.

    Args:
        name: Its name.
        shape: Its shape.
        interventions: Each sees the update that the one before it left.
        source: Where to read it.
        measure: Whether the norm is wanted.
    """
    interventions = list(interventions)
    parts = units(name, shape)
    tensors, all_trained, norms = [], True, []
    for part, part_shape in parts.items():
        update = Update(Weight(part, part_shape, source))
        for intervention in interventions:
            update = intervention.apply(update)
        norms.append(update.norm() if measure else 0.0)
        tensors.append(update.new_weight())
        all_trained &= update.is_trained
    tensor = tensors[0] if name in parts else torch.stack(tensors)
    return NewTensor(tensor, all_trained, math.hypot(*norms) if measure else None)
