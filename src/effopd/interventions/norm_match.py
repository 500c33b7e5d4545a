"""Norm scaling of an early checkpoint: it keeps its direction and gets the norm of the final model's update.

The source is arXiv 2605.11739.
"""

import math
from dataclasses import dataclass, field

from typing_extensions import override

from effopd.checks import check_number
from effopd.interventions.fields import check_reference, option
from effopd.interventions.registry import register
from effopd.interventions.update import Intervention, NormReference, Update


def norm_match_factor(early_norm: float, final_norm: float, beta: float) -> float:
    """Compute `1 + beta * (||dW_final|| - ||dW_early||) / ||dW_early||`, which multiplies a module's early update.

    Args:
        early_norm: `||dW_early||_F` >= 0 of one weight.
        final_norm: `||dW_final||_F` >= 0 of the same weight.
        beta: Any finite number. 0 leaves the update as it is, 1 gives it the final norm, and others extrapolate.

    Returns:
        The factor; 1 for an early update of zeros, which has no direction to scale, and for norms that are equal but
        for the order in which their squares were summed.
    """
    if early_norm == 0 or math.isclose(early_norm, final_norm, rel_tol=1e-13):
        return 1.0
    return 1.0 + beta * (final_norm - early_norm) / early_norm


@register("norm-match", "an early checkpoint, each update scaled towards its final norm")
@dataclass(frozen=True)
class NormMatch(Intervention):
    """An early checkpoint with `dW * (1 + beta * (||dW_final|| - ||dW||) / ||dW||)`, weight by weight.

    Every tensor is scaled on its own (and every expert of a stack): embeddings, norms and biases as well as matrices.
    An update of zeros stays one.

    Attributes:
        final: The final model of the run, trained from the same base, or `update_norms` of it.
        beta: Any finite number. 0 leaves the checkpoint as it is, 1 gives each weight's update the final norm.
    """

    final: NormReference = field(metadata=option("final model of the run", "MODEL"))
    beta: float = field(
        default=1.0, metadata=option("0 keeps each norm, 1 gives the final one; default: %(default)g", "X")
    )

    def __post_init__(self) -> None:
        check_reference("final", self.final)
        check_number("beta", self.beta)

    @override
    def apply(self, update: Update) -> Update:
        if (norm := update.norm()) == 0:
            return update
        weight = update.weight
        return update.times(norm_match_factor(norm, weight.source.norm(self.final, weight.name), self.beta))
