"""Keeping some of an update's singular components (arXiv 2605.11739, top-k % and bottom-k % subspaces).

Only the singular vectors of the short side are needed. Let V_k be the first k of them as columns, and dW be tall. Then

    top    = (dW V_k) V_k^T          the best approximation of rank k
    bottom = dW - top

With the other vectors, V', the same parts are `bottom = (dW V') V'^T` and `top = dW - bottom`. Whichever product is
smaller is computed, and the other part is the difference. So the two add up to dW to the last bits of float64.

Shape suffixes: m rows, n columns.
"""

import math
from dataclasses import dataclass, field
from fractions import Fraction
from typing import get_args

from torch import Tensor
from typing_extensions import override

from effopd.checks import check_choice, check_number
from effopd.errors import ConfigurationError
from effopd.interventions.decomposition import Decomposition
from effopd.interventions.fields import Other, check_reference, option, update_of_other
from effopd.interventions.registry import register
from effopd.interventions.update import Intervention, NormReference, Shapes, Update, is_matrix, weights_in

_PERCENT = option("percentage of the components to keep, above 0 and at most 100", "K")
_OTHER = option("what all other tensors are, base or trained; default: %(default)s", "WHICH")


def top_count(percent: float, rank: int) -> int:
    """Count the components that the top `percent` % are: `ceil(percent / 100 * rank)`.

    The count is exact: 1.1 % of 3000 are 33, for which floating-point numbers would give 34.

    Args:
        percent: In [0, 100], taken as its shortest decimal form.
        rank: Number of components of the matrix.
    """
    return math.ceil(_fraction(percent) * rank / 100)


def bottom_count(percent: float, rank: int) -> int:
    """Count the components that the top `100 - percent` % leave: exactly `floor(percent / 100 * rank)`.

    Args:
        percent: In [0, 100], taken as its shortest decimal form.
        rank: Number of components of the matrix.
    """
    return math.floor(_fraction(percent) * rank / 100)


def keep_top(update: Tensor, count: int, decomposition: Decomposition) -> Tensor:
    """Keep the first `count` singular components of an update.

    Args:
        update: dW, float64 [m, n].
        count: From 0 to `decomposition.rank`. For all of them, `update` itself is returned.
        decomposition: `decompose(update)`.

    Raises:
        ConfigurationError: There are fewer components than `count`, or the decomposition has too few vectors.
    """
    part, is_top = _smaller_part(update, count, decomposition)
    return part if is_top else update - part


def keep_bottom(update: Tensor, count: int, decomposition: Decomposition) -> Tensor:
    """Keep the last `count` singular components of an update: `update - keep_top(update, rank - count, ...)`.

    Unless `count` is 0, the result also has what lies below the threshold of the rank, which is rounding.

    Args:
        update: dW, float64 [m, n].
        count: From 0 to `decomposition.rank`. For all of them, `update` itself is returned.
        decomposition: `decompose(update)`.

    Raises:
        ConfigurationError: There are fewer components than `count`, or the decomposition has too few vectors.
    """
    part, is_top = _smaller_part(update, decomposition.rank - count, decomposition)
    return update - part if is_top else part


@register("top", "the first singular components of each attention and MLP update")
@dataclass(frozen=True)
class TopComponents(Intervention):
    """The first `percent` % of the singular components of each attention and MLP matrix, without the rest.

    Attributes:
        percent: In (0, 100]. `ceil(percent / 100 * rank)` components are kept.
        norm_like: A model trained from the same base (or `update_norms` of it). Each truncated matrix is then scaled to
            the Frobenius norm of that model's update of the same matrix. An update of zeros stays one.
        other: What every other tensor is (embeddings, norms, biases). With `trained`, 100 % is the trained model. With
            `base`, the truncated matrices are all that the new model has of training.
    """

    percent: float = field(metadata=_PERCENT)
    norm_like: NormReference | None = field(
        default=None, metadata=option("give each matrix the norm of this model's update", "MODEL")
    )
    other: Other = field(default="trained", metadata=_OTHER)

    def __post_init__(self) -> None:
        check_number("percent", self.percent, above=0, high=100)
        check_choice("other", self.other, get_args(Other))
        if self.norm_like is not None:
            check_reference("norm_like", self.norm_like)

    @override
    def check(self, shapes: Shapes) -> None:
        _check_matrices("top", shapes)

    @override
    def apply(self, update: Update) -> Update:
        weight = update.weight
        if not is_matrix(weight.name, weight.shape):
            return update_of_other(update, self.other)
        if self.percent < 100 and update.coefficient:
            decomposition = update.decomposition(lambda rank: top_count(self.percent, rank))
            count = top_count(self.percent, decomposition.rank)
            if count < decomposition.rank:
                update = update.with_tensor(keep_top(update.tensor, count, decomposition))
        if self.norm_like is None or (norm := update.norm()) == 0:
            return update
        return update.times(weight.source.norm(self.norm_like, weight.name) / norm)


@register("bottom", "the last singular components of each attention and MLP update")
@dataclass(frozen=True)
class BottomComponents(Intervention):
    """The last `percent` % of the singular components of each attention and MLP matrix, at the norm that they have.

    Attributes:
        percent: In (0, 100]. What the top 100 - percent % leave is kept: `floor(percent / 100 * rank)` components.
        other: What every other tensor is, as in `TopComponents`. With `trained` for one of the two and `base` for the
            other, their updates add up to dW in every tensor.
    """

    percent: float = field(metadata=_PERCENT)
    other: Other = field(default="trained", metadata=_OTHER)

    def __post_init__(self) -> None:
        check_number("percent", self.percent, above=0, high=100)
        check_choice("other", self.other, get_args(Other))

    @override
    def check(self, shapes: Shapes) -> None:
        _check_matrices("bottom", shapes)

    @override
    def apply(self, update: Update) -> Update:
        weight = update.weight
        if not is_matrix(weight.name, weight.shape):
            return update_of_other(update, self.other)
        if self.percent == 100 or not update.coefficient:
            return update
        decomposition = update.decomposition(lambda rank: rank - bottom_count(self.percent, rank))
        count = bottom_count(self.percent, decomposition.rank)
        if count == decomposition.rank:
            return update
        if count == 0:
            return update.times(0.0)
        return update.with_tensor(keep_bottom(update.tensor, count, decomposition))


def _smaller_part(update: Tensor, count: int, decomposition: Decomposition) -> tuple[Tensor, bool]:
    """Compute the first `count` components or all others, whichever costs less; True if it is the first ones."""
    vectors, rank, short = decomposition.vectors, decomposition.rank, min(update.shape)
    num_vectors = vectors.shape[1]
    if not 0 <= count <= rank or len(vectors) != short or num_vectors < count < rank:
        raise ConfigurationError(
            f"Got {count} components to separate from the others of an update of shape {tuple(update.shape)}, and "
            f"{num_vectors} singular vectors of length {len(vectors)}; expected from 0 to {rank}, its rank, and as "
            f"many vectors of length {short}. Pass decompose(update)."
        )
    if count in (0, rank):
        return update, count == rank
    if count <= short // 2 or num_vectors < short:
        return _project(update, vectors[:, :count]), True
    return _project(update, vectors[:, count:]), False


def _project(update: Tensor, basis: Tensor) -> Tensor:
    if update.shape[0] >= update.shape[1]:
        return (update @ basis) @ basis.mT
    return basis @ (basis.mT @ update)


def _fraction(percent: float) -> Fraction:
    return Fraction(repr(float(percent)))


def _check_matrices(kind: str, shapes: Shapes) -> None:
    parts = (item for name, shape in shapes.items() for item in weights_in(name, shape).items())
    if not any(is_matrix(*part) for part in parts):
        raise ConfigurationError(
            f"{kind}: none of the {len(shapes)} tensors is an attention or MLP matrix by its name (the first are "
            f"{', '.join(list(shapes)[:3])}). There is nothing to truncate."
        )
