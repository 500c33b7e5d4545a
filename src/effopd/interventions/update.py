"""What passes through a list of interventions: the update of one weight, as a number times a tensor.

Most interventions only multiply the update by a number, so the tensor is read from disk only when an intervention needs
it. The numbers 0 and 1 stand for the base's and the trained weight as they are stored, bit for bit.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from effopd.errors import UnsupportedError
from effopd.interventions.decomposition import Decomposition, decompose
from effopd.interventions.realised import Realised, measure
from effopd.interventions.scaled_sum import add_scaled, scale_towards
from effopd.parameters import locate

Shapes = Mapping[str, tuple[int, ...]]
"""The shapes of a model's stored tensors, by name."""

NormReference = str | Path | Mapping[str, float]
"""A model whose update has the wanted norms, or those norms by name, as `update_norms` gives them."""


class WeightSource(Protocol):
    """Where the weights of a base and a trained model are read from.

    Weights go by the tensor's name, and by `name[expert]` for one expert of a stack.

    Attributes:
        tied_heads: Names of output heads that are tied to the embedding, although they are stored separately.
    """

    tied_heads: frozenset[str]

    def base(self, name: str) -> Tensor:
        """Read W_base as it is stored."""

    def trained(self, name: str) -> Tensor:
        """Read W as it is stored; of an adapter, the merged weight in the base's dtype."""

    def dtype(self, name: str) -> torch.dtype:
        """Tell the dtype of `trained(name)`."""

    def delta(self, name: str) -> Tensor:
        """Compute the update dW in float64."""

    def delta_norm(self, name: str) -> float:
        """Compute the Frobenius norm of dW where `is_difference(name)`."""

    def is_difference(self, name: str) -> bool:
        """Tell whether dW is `trained(name)` minus `base(name)`, as they are stored."""

    def decomposition(self, name: str, update: Tensor, num_vectors: Callable[[int], int]) -> Decomposition:
        """Decompose an update.

        Args:
            name: Name of the weight.
            update: Its dW, which is `delta(name)`.
            num_vectors: Function from the update's rank to the number of singular vectors that are needed.
        """

    def norm(self, model: NormReference, name: str) -> float:
        """Find the Frobenius norm of another model's update of this weight."""


class Weight:
    """One weight before and after training.

    Args:
        name: Name of the tensor, or `name[expert]`.
        shape: Shape of the weight.
        source: The models to read it from.
    """

    def __init__(self, name: str, shape: tuple[int, ...], source: WeightSource) -> None:
        self.name, self.shape, self.source = name, shape, source

    @cached_property
    def delta(self) -> Tensor:
        """The update dW in float64, read when it is first asked for and then kept."""
        return self.source.delta(self.name)

    @property
    def is_read(self) -> bool:
        """Whether dW is in memory."""
        return "delta" in vars(self)


class NewWeight(NamedTuple):
    """A weight of the intervened model.

    Attributes:
        tensor: The weight as it is to be held.
        realised: What it holds of its intended update.
    """

    tensor: Tensor
    realised: Realised


@dataclass(frozen=True, eq=False)
class Update:
    """The update of a weight, `coefficient * tensor`, which is to be added to the weight's base.

    Attributes:
        weight: The weight.
        coefficient: A finite number.
        replaced: The tensor, float64, where it is another than dW, the update that training made; otherwise None.
    """

    weight: Weight
    coefficient: float = 1.0
    replaced: Tensor | None = None

    @property
    def tensor(self) -> Tensor:
        """The update without its coefficient, in float64."""
        return self.weight.delta if self.replaced is None else self.replaced

    @property
    def is_trained(self) -> bool:
        """Whether this is the update that training made."""
        return self.coefficient == 1 and self.replaced is None

    def times(self, factor: float) -> "Update":
        """Multiply this update by a number."""
        return replace(self, coefficient=self.coefficient * factor)

    def with_tensor(self, tensor: Tensor) -> "Update":
        """Give this update another tensor, and keep its coefficient."""
        return replace(self, replaced=tensor)

    def norm(self) -> float:
        """Compute the Frobenius norm in float64."""
        name, source = self.weight.name, self.weight.source
        if self.coefficient and self.replaced is None and not self.weight.is_read and source.is_difference(name):
            return abs(self.coefficient) * source.delta_norm(name)  # which holds no dW
        return abs(self.coefficient) * float(torch.linalg.vector_norm(self.tensor)) if self.coefficient else 0.0

    def decomposition(self, num_vectors: Callable[[int], int]) -> Decomposition:
        """Decompose `tensor`.

        Args:
            num_vectors: Function from the rank of the tensor to the number of singular vectors that are needed.
        """
        if self.replaced is None:
            return self.weight.source.decomposition(self.weight.name, self.tensor, num_vectors)
        return decompose(self.tensor)

    def new_weight(self, dtype: torch.dtype) -> NewWeight:
        """Add this update to W_base.

        For the update that training made, the result is the trained weight as it is stored. For a coefficient of 0, it
        is the base's. Both are exact in any dtype that holds the stored one. Everything else is computed in float64 and
        rounded once. A weight that is not of a floating dtype stays as it is.

        Args:
            dtype: Floating dtype of the result. An adapter's merged weight has fewer bits of its update in the stored
                dtype than in a wider one.

        Raises:
            DataError: The result is not finite.
            UnsupportedError: The weight is not of a floating dtype, and training changed it.
        """
        source, name = self.weight.source, self.weight.name
        if not source.dtype(name).is_floating_point:
            return NewWeight(self._unchanged_integers(), Realised())
        is_difference = source.is_difference(name)
        if self.is_trained and is_difference:
            norm = source.delta_norm(name)
            return NewWeight(source.trained(name).to(dtype), Realised(norm, norm))
        base = source.base(name)
        flat_base, other = base.reshape(-1), base
        if self.coefficient == 0:
            new = base.to(dtype)
            if torch.promote_types(base.dtype, dtype) == dtype:
                return NewWeight(new, Realised())
        elif self.replaced is None and not self.weight.is_read and is_difference:
            other = source.trained(name)
            new = scale_towards(base, other, self.coefficient, dtype)
        else:
            flat_update = self.tensor.reshape(-1)
            new = add_scaled(base, self.tensor, self.coefficient, dtype)
            return NewWeight(new, measure(base, new, lambda piece: flat_update[piece] * self.coefficient))
        flat_other = other.reshape(-1)
        return NewWeight(
            new, measure(base, new, lambda piece: (flat_other[piece].double() - flat_base[piece]) * self.coefficient)
        )

    def _unchanged_integers(self) -> Tensor:
        source, name = self.weight.source, self.weight.name
        trained = source.trained(name)
        if not (self.is_trained or torch.equal(trained, source.base(name))):
            raise UnsupportedError(
                f"{name} is {trained.dtype} and differs between base and trained; only floating-point weights can be "
                "scaled or truncated. Give both models the same value."
            )
        return trained


class Intervention(Protocol):
    """A change of a model's update, weight by weight."""

    def check(self, shapes: Shapes) -> None:
        """Raise ConfigurationError if a model with these tensors has nothing that the intervention could change."""

    def apply(self, update: Update) -> Update:
        """Make the changed update of one weight."""


def weights_in(name: str, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """List the weights in a stored tensor, with their shapes: the tensor itself, or the experts of a 3-D stack."""
    if len(shape) == 3 and locate(name).kind == "mlp":
        return {f"{name}[{expert}]": shape[1:] for expert in range(shape[0])}
    return {name: shape}


def is_matrix(name: str, shape: tuple[int, ...]) -> bool:
    """Tell whether a weight is an attention or MLP matrix, which truncations and the analysis are about."""
    return len(shape) == 2 and not name.endswith("bias") and locate(name).kind in ("attention", "mlp")


class NewTensor(NamedTuple):
    """A tensor of the intervened model.

    Attributes:
        tensor: The tensor as it is to be held.
        is_trained: Whether it is the tensor of the trained model.
        realised: What it holds of its intended update.
        if_stored: What it would hold in the stored dtype.
    """

    tensor: Tensor
    is_trained: bool
    realised: Realised
    if_stored: Realised


def new_updates(
    name: str, shape: tuple[int, ...], interventions: Iterable[Intervention], source: WeightSource
) -> Iterator[Update]:
    """Apply interventions, the first one first, to the update of one stored tensor.

    Args:
        name: Name of the tensor.
        shape: Shape of the tensor.
        interventions: Interventions, each of which gets the update that the one before it made.
        source: The models to read it from.

    Yields:
        The update of each weight in the tensor: one, or one for each expert of a stack, made when it is asked for.
    """
    interventions = list(interventions)
    for part, part_shape in weights_in(name, shape).items():
        update = Update(Weight(part, part_shape, source))
        for intervention in interventions:
            update = intervention.apply(update)
        yield update


def new_tensor(
    name: str, updates: Iterable[Update], dtype: torch.dtype, stored: torch.dtype | None = None
) -> NewTensor:
    """Add the updates of a stored tensor's weights to the base, one weight after the other.

    Args:
        name: Name of the tensor.
        updates: Updates from `new_updates`.
        dtype: Floating dtype of the result.
        stored: Dtype that `if_stored` is about; None takes `dtype`.
    """
    tensors: list[Tensor] = []
    realised, if_stored, is_trained, is_stack = Realised(), Realised(), True, False
    for update in updates:
        new = update.new_weight(dtype)
        tensors.append(new.tensor)
        realised = realised.with_more(new.realised)
        narrow = new if stored in (None, dtype) else update.new_weight(stored)
        if_stored = if_stored.with_more(narrow.realised)
        is_trained, is_stack = is_trained and update.is_trained, update.weight.name != name
        del update, new, narrow  # so that of a stack, one expert's update is in memory at a time
    return NewTensor(torch.stack(tensors) if is_stack else tensors[0], is_trained, realised, if_stored)
