"""Which weights a window over the layers covers (arXiv 2605.11739, sliding windows)."""

from typing import Literal

from effopd.parameters import locate

WindowModule = Literal["mlp", "attention", "both"]


def has_module(name: str, module: WindowModule) -> bool:
    """Whether a weight or bias belongs to the MLP or attention modules of a layer, whichever layer.

    Norms do not, wherever they are (`self_attn.q_norm` neither), nor does anything outside the layers.
    """
    place = locate(name)
    kinds = ("mlp", "attention") if module == "both" else (module,)
    return place.layer is not None and place.kind in kinds


def in_window(name: str, module: WindowModule, centre: int, half_width: int) -> bool:
    """Whether a weight is in the layers `centre - half_width ... centre + half_width`, both included.

    A window that reaches over the first or last layer is cut off there, not moved.

    Args:
        name: A parameter's name.
        module: Modules that the window covers.
        centre: Index of a layer, from 0.
        half_width: Layers to either side, >= 0.
    """
    layer = locate(name).layer
    return has_module(name, module) and layer is not None and abs(layer - centre) <= half_width
