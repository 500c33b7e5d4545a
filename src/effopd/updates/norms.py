"""Where in the network an update sits: norms by layer and module kind, and the modules it left nearly unmoved.

Source: arXiv 2605.11739, the section on update norms by layer and module.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from effopd.errors import DataError
from effopd.parameters import Location, ModuleKind, locate


def layer_norms(records: Iterable[tuple[str, float]]) -> dict[ModuleKind, dict[int | None, float]]:
    """Norm of the update of each layer, per module kind.

    Args:
        records: (parameter name, Frobenius norm of its update), each parameter once.

    Returns:
        Kind -> layer -> `sqrt(sum ||dW||_F^2)` over that layer's parameters of that kind, layers ascending. The layer
        is None outside the stack of layers; names whose role is not known are under the kind `other`.

    Raises:
        DataError: A name occurs twice; a norm is negative or not finite.
    """
    norms: dict[ModuleKind, dict[int | None, float]] = {}
    located = [(locate(name), norm) for name, norm in _checked(records)]
    for place, norm in sorted(located, key=lambda item: -1 if item[0].layer is None else item[0].layer):
        layers = norms.setdefault(place.kind, {})
        layers[place.layer] = math.hypot(layers.get(place.layer, 0.0), norm)
    return norms


@dataclass(frozen=True)
class ModuleMovement:
    """How far training moved one module: a weight with its bias.

    Attributes:
        names: Its parameters, in the order given.
        layer: Index of its layer; None outside the stack of layers.
        module: Its path inside the layer, e.g. `self_attn.q_proj`.
        kind: Its role.
        update_norm: `||dW||_F` over its parameters.
        share: Its share of the squared update norm of all modules, in [0, 1]; 0 if nothing moved.
        relative_update: `||dW||_F / ||W_base||_F`; None if its base is zero, unless it did not move: then 0.
    """

    names: tuple[str, ...]
    layer: int | None
    module: str
    kind: ModuleKind
    update_norm: float
    share: float
    relative_update: float | None


def module_movements(records: Iterable[tuple[str, float, float]]) -> list[ModuleMovement]:
    """How far training moved each module, the largest share of the squared norm first.

    Args:
        records: (parameter name, Frobenius norm of its update, Frobenius norm of its base), each parameter once.

    Raises:
        DataError: A name occurs twice; a norm is negative or not finite.
    """
    records = list(records)
    updates = dict(_checked((name, update) for name, update, _ in records))
    bases = dict(_checked((name, base) for name, _, base in records))
    modules: dict[Location, list[str]] = {}
    for name in updates:
        modules.setdefault(locate(name), []).append(name)
    total = math.hypot(*updates.values())
    movements = []
    for (layer, module, kind), names in modules.items():
        update, base = (math.hypot(*(norms[name] for name in names)) for norms in (updates, bases))
        relative = update / base if base else None if update else 0.0
        share = (update / total) ** 2 if total else 0.0
        movements.append(ModuleMovement(tuple(names), layer, module, kind, update, share, relative))
    return sorted(movements, key=lambda movement: -movement.share)


def nearly_unmoved(movements: Iterable[ModuleMovement], *, max_relative_update: float) -> list[ModuleMovement]:
    """The modules whose `relative_update` is at most a bound: candidates for freezing.

    Their shares add up to what freezing them would have cost of the update's squared norm.

    Args:
        movements: From `module_movements`.
        max_relative_update: Bound on `||dW||_F / ||W_base||_F`. A module that moved away from zero is never below it.
    """
    return [m for m in movements if m.relative_update is not None and m.relative_update <= max_relative_update]


def _checked(records: Iterable[tuple[str, float]]) -> list[tuple[str, float]]:
    records = list(records)
    seen: set[str] = set()
    for name, norm in records:
        if name in seen or not 0 <= norm < math.inf:
            raise DataError(
                f"Got the norm {norm} for {name!r}{' a second time' if name in seen else ''}; "
                "expected one finite norm >= 0 per parameter."
            )
        seen.add(name)
    return records
