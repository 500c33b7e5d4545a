"""Scaling of the update (arXiv 2605.11739)."""

from dataclasses import dataclass, field

from typing_extensions import override

from effopd.checks import check_number
from effopd.interventions.fields import option
from effopd.interventions.registry import register
from effopd.interventions.update import Intervention, Update


@register("scale", "base + alpha times the update")
@dataclass(frozen=True)
class Scale(Intervention):
    """`W_base + alpha * dW`, for every tensor of the model.

    Attributes:
        alpha: Any finite number. 0 gives the base and 1 the trained model; numbers above 1 extrapolate.
    """

    alpha: float = field(metadata=option("factor of the update: 0 gives the base, 1 the trained model", "X"))

    def __post_init__(self) -> None:
        check_number("alpha", self.alpha)

    @override
    def apply(self, update: Update) -> Update:
        return update.times(self.alpha)
