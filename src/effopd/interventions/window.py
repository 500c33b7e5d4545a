"""Windows of layers that keep their update (arXiv 2605.11739, sliding windows)."""

from dataclasses import dataclass, field
from typing import Literal, get_args

from typing_extensions import override

from effopd.checks import check_choice, check_whole
from effopd.errors import ConfigurationError
from effopd.interventions.fields import Other, option, update_of_other
from effopd.interventions.registry import register
from effopd.interventions.update import Intervention, Shapes, Update
from effopd.parameters import locate

WindowModule = Literal["mlp", "attention", "both"]


def has_module(name: str, module: WindowModule) -> bool:
    """Tell whether a weight or bias belongs to the MLP or attention module of any layer.

    Norms do not, even inside a module (`self_attn.q_norm`). Nothing outside the layers does either.
    """
    place = locate(name)
    kinds = ("mlp", "attention") if module == "both" else (module,)
    return place.layer is not None and place.kind in kinds


def in_window(name: str, module: WindowModule, centre: int, half_width: int) -> bool:
    """Tell whether a weight is in the layers from `centre - half_width` to `centre + half_width`, both included.

    A window that reaches beyond the first or last layer is cut off there; it is not moved.

    Args:
        name: A parameter's name.
        module: Modules that the window covers.
        centre: Index of a layer, from 0.
        half_width: Number of layers to either side, >= 0.
    """
    layer = locate(name).layer
    return has_module(name, module) and layer is not None and abs(layer - centre) <= half_width


@register("window", "base, with the update of the MLP or attention modules of some layers")
@dataclass(frozen=True)
class Window(Intervention):
    """The base with the update of the MLP or attention modules in a window of layers.

    Attributes:
        module: Modules that keep their update inside the window: `mlp`, `attention` or `both`, weights and biases.
        centre: Index of a layer, from 0.
        half_width: The window is `centre - half_width ... centre + half_width`, cut off at the first and last layer.
        other: What every other tensor is (norms, embeddings, output head, modules not named): `base`, as in the paper,
            or `trained`. With `trained`, only the modules outside the window lose their update.
    """

    module: WindowModule = field(metadata=option("modules that keep their update: mlp, attention or both", "M"))
    centre: int = field(metadata=option("index of the layer at the centre, from 0", "LAYER"))
    half_width: int = field(default=8, metadata=option("number of layers to either side; default: %(default)s", "N"))
    other: Other = field(
        default="base", metadata=option("what all other tensors are, base or trained; default: %(default)s", "WHICH")
    )

    def __post_init__(self) -> None:
        check_choice("module", self.module, get_args(WindowModule))
        check_choice("other", self.other, get_args(Other))
        check_whole("centre", self.centre, 0)
        check_whole("half_width", self.half_width, 0)

    @override
    def check(self, shapes: Shapes) -> None:
        layers = sorted({layer for name in shapes if (layer := locate(name).layer) is not None})
        if self.centre not in layers:
            expected = f"a layer from {layers[0]} to {layers[-1]}" if layers else "numbered layers; the model has none"
            raise ConfigurationError(f"window: got centre {self.centre}; expected {expected}.")
        if not any(in_window(name, self.module, self.centre, self.half_width) for name in shapes):
            raise ConfigurationError(
                f"window: no tensor of module {self.module!r} in the layers {self.centre - self.half_width} to "
                f"{self.centre + self.half_width}. Take another module or a wider window."
            )

    @override
    def apply(self, update: Update) -> Update:
        name = update.weight.name
        if not has_module(name, self.module):
            return update_of_other(update, self.other)
        return update if in_window(name, self.module, self.centre, self.half_width) else update.times(0.0)
