"""Interventions on a model in memory, for sweeps that write no models to disk."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from typing_extensions import override

from effopd.checkpoints.model import open_model, split_expert, untie
from effopd.errors import ConfigurationError, DataError, UnsupportedError, listing
from effopd.interventions.decomposition import Decomposition, decompose
from effopd.interventions.norms import NormLookup
from effopd.interventions.realised import RealisedByKind, difference_norm
from effopd.interventions.stored import plain_parameters, stored_parameters
from effopd.interventions.update import Intervention, NormReference, WeightSource, new_tensor, new_updates
from effopd.parameters import by_clean_name


class LiveModel:
    """A trained model in memory, and the base that it was trained from.

        live = LiveModel(model, "Qwen/Qwen2.5-1.5B")
        for percent in (1, 5, 10, 50):
            with live.intervened(TopComponents(percent)):
                score(model)

    Inside the block, the model has the parameters that `intervene` would write. Afterwards it has the trained ones
    again, bit for bit, even if the block raises. They are computed in float64 on each parameter's own device, and
    rounded once to the dtype that the parameter has in memory: load the model in float32 unless you want the rounding
    of a narrower dtype. On a CPU, they equal to the bit what `intervene` writes in that dtype. An adapter that was
    merged into the model is an exception: its update is what the merged parameters hold of it.

    If you train the model further, make a new `LiveModel`. Tied parameters count as one parameter. Parameters that
    transformers fuses or renames in memory are treated as they are on disk. Buffers stay as they are.

    Args:
        model: The trained model. Its parameters are the trained weights.
        base: Directory or hub name of the base, whose weights are then held in CPU memory; or its tensors, by the names
            that they are stored under or by those in memory, `dict(base_model.named_parameters())`.
        keep_decompositions: Whether to keep the singular vectors of a matrix once they are computed, so that other
            percentages cost only two matrix products. They take 8 min(m, n)^2 bytes per matrix on its device, about
            2.5 GB for a model of 1.5 billion parameters.

    Raises:
        DataError: The base cannot be read, lacks a parameter, or has one of another shape.
        UnsupportedError: A parameter is sharded, not in memory, not of a floating dtype, or stored in another form.
    """

    def __init__(
        self, model: nn.Module, base: str | Path | Mapping[str, Tensor], *, keep_decompositions: bool = True
    ) -> None:
        for name, parameter in model.named_parameters():
            if isinstance(parameter, DTensor) or not parameter.is_floating_point() or parameter.is_meta:
                raise UnsupportedError(
                    f"{name} is {type(parameter).__name__}, {parameter.dtype}, on {parameter.device}; expected whole "
                    "floating-point parameters in memory. Load the model unquantised and unsharded."
                )
        self._model, self._read = model, stored_parameters
        if isinstance(base, Mapping):
            base = by_clean_name((name, tensor.detach()) for name, tensor in base.items())
            if not stored_parameters(model).keys() <= base.keys():
                self._read = plain_parameters
        parameters = self._read(model)
        self._shapes = {name: tuple(tensor.shape) for name, tensor in parameters.items()}
        self._source = _LiveSource(parameters, base, self._shapes, keep_decompositions)
        self._inside = False

    def changed_fraction(self) -> float:
        """Compute the share of the trained parameters' elements that differ from the base's, in [0, 1]."""
        changed = total = 0
        for name, parameter in self._source.parameters.items():
            changed += int((parameter != self._source.base(name)).sum())
            total += parameter.numel()
        return changed / max(total, 1)

    @contextmanager
    def intervened(self, *interventions: Intervention) -> Iterator[RealisedByKind]:
        """Apply interventions to the model's update, the first one first, until the block ends.

        Until then, copies of the parameters that change are held on their devices.

        Args:
            *interventions: The interventions.

        Yields:
            What the parameters hold of the intended update, in the dtype that they have.

        Raises:
            ConfigurationError: An intervention has nothing to change in this model, or the blocks are nested.
            DataError: A new weight is not finite. The model stays as it was.
        """
        if self._inside:
            raise ConfigurationError(
                "The model is intervened on already. Leave that block first, or pass all interventions in one call."
            )
        for intervention in interventions:
            intervention.check(self._shapes)
        self._inside = True
        originals: dict[str, Tensor] = {}
        realised = RealisedByKind()
        try:
            self._source.parameters = self._read(
                self._model
            )  # read again, here and below: the model may have been moved
            for name, parameter in self._source.parameters.items():
                updates = new_updates(name, self._shapes[name], interventions, self._source)
                new = new_tensor(name, updates, parameter.dtype)
                realised.add(name, new.realised)
                if not new.is_trained:
                    originals[name] = parameter.clone()
                    _write(parameter, new.tensor)
            yield realised
        finally:
            parameters = self._read(self._model)
            for name, original in originals.items():
                _write(parameters[name], original)
            self._inside = False


class _LiveSource(WeightSource):
    """Reads the weights of a model in memory and of its base."""

    tied_heads = frozenset()  # in memory, tied parameters are one parameter

    def __init__(
        self,
        parameters: dict[str, Tensor],
        base: str | Path | Mapping[str, Tensor],
        shapes: dict[str, tuple[int, ...]],
        keep_decompositions: bool,
    ) -> None:
        self.parameters, self._keep = parameters, keep_decompositions
        self._decompositions: dict[str, Decomposition] = {}
        self._delta_norms: dict[str, float] = {}
        if isinstance(base, Mapping):
            self._norms = NormLookup(None)
            self._base = dict(base)
        else:
            self._norms = NormLookup(base)
            reader = untie(open_model(base), shapes)
            self._base = {name: reader.read(name) for name in shapes if name in reader.tensors}
        missing = [name for name in shapes if name not in self._base]
        other = [name for name in shapes if name in self._base and tuple(self._base[name].shape) != shapes[name]]
        if missing or other:
            raise DataError(
                f"The base lacks {len(missing)} of the model's {len(shapes)} parameters"
                f"{f' ({listing(missing, 3)})' if missing else ''} and has {len(other)} of another shape"
                f"{f' ({listing(other, 3)})' if other else ''}; expected the model that training started from. Pass "
                "its directory, or its tensors by the names that they have in memory."
            )

    @override
    def base(self, name: str) -> Tensor:
        return _part(self._base, name).to(self.trained(name).device)

    @override
    def trained(self, name: str) -> Tensor:
        return _part(self.parameters, name)

    @override
    def dtype(self, name: str) -> torch.dtype:
        return self.trained(name).dtype

    @override
    def delta(self, name: str) -> Tensor:
        trained = self.trained(name)
        delta = trained.to(torch.float64, copy=True, memory_format=torch.contiguous_format).sub_(self.base(name))
        if not math.isfinite(float(delta.sum())):
            raise DataError(f"{name}: the model minus its base is not finite. Did training diverge?")
        return delta

    @override
    def delta_norm(self, name: str) -> float:
        if name not in self._delta_norms:
            self._delta_norms[name] = difference_norm(self.base(name), self.trained(name))
        return self._delta_norms[name]

    @override
    def is_difference(self, name: str) -> bool:
        return name in self._delta_norms or math.isfinite(float(self.trained(name).sum(dtype=torch.float64)))

    @override
    def decomposition(self, name: str, update: Tensor, num_vectors: Callable[[int], int]) -> Decomposition:
        found = self._decompositions.get(name) or decompose(update)
        if self._keep:
            self._decompositions[name] = found
        return found

    @override
    def norm(self, model: NormReference, name: str) -> float:
        return self._norms.norm(model, name)


def _part(tensors: Mapping[str, Tensor], name: str) -> Tensor:
    """Find a tensor by its name, or one expert of a stack by `name[expert]`."""
    whole, expert = split_expert(name)
    return tensors[whole] if expert is None else tensors[whole][expert]


@torch.no_grad()
def _write(parameter: Tensor, value: Tensor) -> None:
    parameter.copy_(value)
