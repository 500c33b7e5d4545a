"""The interventions, as values: what each does to the update of one weight (arXiv 2605.11739).

Each is a frozen dataclass whose fields are checked when it is made, and that composes with the others in a list.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from effopd.errors import ConfigurationError
from effopd.files import is_finite_number
from effopd.interventions.norm_match import norm_match_factor
from effopd.interventions.replace import is_embedding
from effopd.interventions.truncate import bottom_count, keep_bottom, keep_top, top_count
from effopd.interventions.update import NormReference, Update, is_matrix, units
from effopd.interventions.window import WindowModule, has_module, in_window
from effopd.parameters import locate

Other = Literal["base", "trained"]
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Scale:
    """`W_base + alpha * dW`, for every tensor of the model.

    Attributes:
        alpha: 0 gives the base, 1 the trained model; beyond, extrapolation. Any finite number.
    """

    alpha: float

    def __post_init__(self) -> None:
        _check_number("alpha", self.alpha)

    def check(self, shapes: Shapes) -> None:
        """Every model has tensors to scale."""

    def apply(self, update: Update) -> Update:
        """Times alpha."""
        return update.times(self.alpha)


@dataclass(frozen=True)
class ReplaceEmbeddings:
    """The trained model with the base's embeddings, and with the base's output head where that is the embedding."""

    def check(self, shapes: Shapes) -> None:
        """There has to be an embedding."""
        if not any(is_embedding(name) for name in shapes):
            raise ConfigurationError(
                f"replace-embeddings: none of the {len(shapes)} tensors is an embedding by its name (the first are "
                f"{', '.join(list(shapes)[:3])}). Expected a name with 'embed', 'wte' or 'wpe'."
            )

    def apply(self, update: Update) -> Update:
        """Nothing of an embedding's update is left."""
        weight = update.weight
        return update.times(0.0) if is_embedding(weight.name, weight.source.tied_heads) else update


@dataclass(frozen=True)
class Window:
    """The base, and the update of the MLP or attention modules in a window of layers.

    Attributes:
        module: Modules that keep their update inside the window: `mlp`, `attention` or `both`, weights and biases.
        centre: Index of a layer, from 0.
        half_width: The window is `centre - half_width ... centre + half_width`, cut off at the first and last layer.
        other: What every other tensor is (norms, embeddings, head, modules not named): `base`, as in the paper, or
            `trained`, which leaves out the update of the modules outside the window and nothing else.
    """

    module: WindowModule
    centre: int
    half_width: int = 8
    other: Other = "base"

    def __post_init__(self) -> None:
        _check_choice("module", self.module, WindowModule)
        _check_choice("other", self.other, Other)
        _check_index("centre", self.centre)
        _check_index("half_width", self.half_width)

    def check(self, shapes: Shapes) -> None:
        """The centre has to be a layer, and the window to have such a module in it."""
        layers = sorted({layer for name in shapes if (layer := locate(name).layer) is not None})
        if self.centre not in layers:
            expected = f"a layer from {layers[0]} to {layers[-1]}" if layers else "numbered layers; the model has none"
            raise ConfigurationError(f"window: got centre {self.centre}; expected {expected}.")
        if not any(in_window(name, self.module, self.centre, self.half_width) for name in shapes):
            raise ConfigurationError(
                f"window: no tensor of module {self.module!r} in the layers {self.centre - self.half_width} to "
                f"{self.centre + self.half_width}. Take another module or a wider window."
            )

    def apply(self, update: Update) -> Update:
        """All or nothing of the update."""
        name = update.weight.name
        if not has_module(name, self.module):
            return _other(update, self.other)
        return update if in_window(name, self.module, self.centre, self.half_width) else update.times(0.0)


@dataclass(frozen=True)
class TopComponents:
    """The first `percent` % of the singular components of each attention and MLP matrix, and nothing of the rest.

    Attributes:
        percent: In (0, 100]: `ceil(percent / 100 * rank)` components.
        norm_like: A model trained from the same base (or `update_norms` of it). Each truncated matrix is then scaled to
            the Frobenius norm of that model's update of the same matrix. An update of zeros stays one.
        other: What every other tensor is (embeddings, norms, biases): `trained`, by which 100 % is the trained model;
            or `base`, by which the truncated matrices are all that the model has of training.
    """

    percent: float
    norm_like: NormReference | None = None
    other: Other = "trained"

    def __post_init__(self) -> None:
        _check_percent(self.percent)
        _check_choice("other", self.other, Other)
        if self.norm_like is not None:
            _check_reference("norm_like", self.norm_like)

    def check(self, shapes: Shapes) -> None:
        """There has to be a matrix."""
        _check_matrices("top", shapes)

    def apply(self, update: Update) -> Update:
        """Truncate, then set the norm."""
        weight = update.weight
        if not is_matrix(weight.name, weight.shape):
            return _other(update, self.other)
        if self.percent < 100 and update.coefficient:
            decomposition = update.decomposition(lambda rank: top_count(self.percent, rank))
            count = top_count(self.percent, decomposition.rank)
            if count < decomposition.rank:
                update = update.with_tensor(keep_top(update.tensor, count, decomposition))
        if self.norm_like is None or (norm := update.norm()) == 0:
            return update
        return update.times(weight.source.norm(self.norm_like, weight.name) / norm)


@dataclass(frozen=True)
class BottomComponents:
    """The last `percent` % of the singular components of each attention and MLP matrix, with the norm that they have.

    Attributes:
        percent: In (0, 100]. What the top 100 - percent % leave: `floor(percent / 100 * rank)` components.
        other: As in `TopComponents`. With `trained` here and `base` there, or the other way round, the two updates add
            up to dW in every tensor.
    """

    percent: float
    other: Other = "trained"

    def __post_init__(self) -> None:
        _check_percent(self.percent)
        _check_choice("other", self.other, Other)

    def check(self, shapes: Shapes) -> None:
        """There has to be a matrix."""
        _check_matrices("bottom", shapes)

    def apply(self, update: Update) -> Update:
        """Leave out the first components."""
        weight = update.weight
        if not is_matrix(weight.name, weight.shape):
            return _other(update, self.other)
        if self.percent == 100 or not update.coefficient:
            return update
        decomposition = update.decomposition(lambda rank: rank - bottom_count(self.percent, rank))
        count = bottom_count(self.percent, decomposition.rank)
        if count == decomposition.rank:
            return update
        if count == 0:
            return update.times(0.0)
        return update.with_tensor(keep_bottom(update.tensor, count, decomposition))


@dataclass(frozen=True)
class NormMatch:
    """The norm scaling of an early checkpoint: `dW * (1 + beta * (||dW_final|| - ||dW||) / ||dW||)`, per weight.

    Each tensor is a module here (each expert of a stack too): embeddings, norms and biases as well as matrices. An
    update of zeros stays one.

    Attributes:
        final: The final model of the run, trained from the same base, or `update_norms` of it.
        beta: 0 leaves the checkpoint as it is, 1 gives each weight's update the final norm. Any finite number.
    """

    final: NormReference
    beta: float = 1.0

    def __post_init__(self) -> None:
        _check_reference("final", self.final)
        _check_number("beta", self.beta)

    def check(self, shapes: Shapes) -> None:
        """Every model has tensors to scale."""

    def apply(self, update: Update) -> Update:
        """Scale by the norms."""
        if (norm := update.norm()) == 0:
            return update
        weight = update.weight
        return update.times(norm_match_factor(norm, weight.source.norm(self.final, weight.name), self.beta))


def _other(update: Update, other: Other) -> Update:
    return update if other == "trained" else update.times(0.0)


def _check_number(field: str, value: Any) -> None:
    if not is_finite_number(value):
        raise ConfigurationError(f"{field}: got {value!r}; expected a finite number.")


def _check_percent(value: Any) -> None:
    _check_number("percent", value)
    if not 0 < value <= 100:
        raise ConfigurationError(f"percent: got {value!r}; expected a number above 0 and at most 100.")


def _check_index(field: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ConfigurationError(f"{field}: got {value!r}; expected a whole number of layers, at least 0.")


def _check_choice(field: str, value: Any, choices: Any) -> None:
    if value not in get_args(choices):
        raise ConfigurationError(f"{field}: got {value!r}; expected one of {', '.join(get_args(choices))}.")


def _check_reference(field: str, value: Any) -> None:
    if not value or not isinstance(value, (str, Path, Mapping)):
        raise ConfigurationError(
            f"{field}: got {value!r}; expected a model directory or hub name, or norms from update_norms()."
        )


def _check_matrices(kind: str, shapes: Shapes) -> None:
    parts = (item for name, shape in shapes.items() for item in units(name, shape).items())
    if not any(is_matrix(*part) for part in parts):
        raise ConfigurationError(
            f"{kind}: none of the {len(shapes)} tensors is an attention or MLP matrix by its name (the first are "
            f"{', '.join(list(shapes)[:3])}). There is nothing to truncate."
        )
