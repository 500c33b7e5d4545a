"""Norms of a vector as long as the model, by parameter, kind of module and layer."""

import math
from collections.abc import Callable, Hashable, Mapping
from typing import TypeVar

from torch import Tensor

from effopd.parameters import locate

Key = TypeVar("Key", bound=Hashable)


def norms_by_parameter(vector: Mapping[str, Tensor]) -> dict[str, float]:
    """Compute the norm of each parameter's part. Tied parameters are one, under the name that the model gives first."""
    return {name: value.double().norm().item() for name, value in vector.items()}


def norms_by_kind(by_parameter: Mapping[str, float]) -> dict[str, float]:
    """Compute the norm of each kind of module's part from those of the parameters."""
    return _joined(by_parameter, lambda name: locate(name).kind)


def norms_by_layer(by_parameter: Mapping[str, float]) -> dict[int, float]:
    """Compute the norm of each layer's part; parameters outside of layers are left out."""
    joined = _joined(by_parameter, lambda name: locate(name).layer)
    return {layer: joined[layer] for layer in sorted(each for each in joined if each is not None)}


def _joined(by_parameter: Mapping[str, float], key: Callable[[str], Key]) -> dict[Key, float]:
    groups: dict[Key, list[float]] = {}
    for name, norm in by_parameter.items():
        groups.setdefault(key(name), []).append(norm)
    return {group: math.hypot(*norms) for group, norms in groups.items()}
