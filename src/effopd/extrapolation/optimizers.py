"""What a jump asks of the optimizer, and what a line search does to it. accelerate and DeepSpeed wrap that of torch."""

from typing import Any

import torch

from effopd.errors import UnsupportedError
from effopd.extrapolation.shards import local_part

# Relative distance below which a tensor of the optimizer counts as a copy of the weights. Momenta are farther away.
LARGEST_DISTANCE = 0.05
KEEPS_WEIGHTS = (
    "An optimizer that keeps weights of its own, averaged or as a master copy, would overwrite an extrapolation at its "
    "next step. Use one that updates the model's weights in place, such as optim='adamw_torch'."
)


def torch_optimizer(optimizer: Any) -> Any:
    """Return the innermost optimizer, whose `step` updates the weights."""
    while (inner := getattr(optimizer, "optimizer", None)) is not None:
        optimizer = inner
    return optimizer


def forget_moments(optimizer: Any) -> None:
    """Empty the optimizer's state, as if it had done no step yet."""
    optimizer.state.clear()
    zero: Any = getattr(optimizer, "optimizer", None)
    if hasattr(zero, "_hp_optimizer_states_linked"):  # DeepSpeed keeps views of the state, which its next step renews
        zero._hp_optimizer_states_linked = False


def check_optimizer(optimizer: Any) -> None:
    """Refuse an optimizer that keeps weights of its own, which would undo a jump at the next step.

    Such an optimizer is recognised by a tensor in its state that nearly equals the parameter: its relative distance is
    below `LARGEST_DISTANCE`. Only the largest matrix is looked at, or under ZeRO the largest flat partition.

    Args:
        optimizer: Optimizer that has done a step already, so that it has a state.

    Raises:
        UnsupportedError: There is such a tensor.
    """
    state = getattr(optimizer, "state", {})
    parameters = [parameter for parameter in state if isinstance(parameter, torch.Tensor)]
    parameters = [parameter for parameter in parameters if parameter.ndim > 1] or parameters
    if not parameters:
        return
    largest = max(parameters, key=lambda parameter: parameter.numel())
    for name, value in state[largest].items():
        if not isinstance(value, torch.Tensor) or value.shape != largest.shape or not value.is_floating_point():
            continue
        kept, weight = (local_part(each).detach().to(torch.float32) for each in (value, largest))
        # Not <=, because the padding of a partition may be anything, infinities or only zeros.
        if torch.dist(kept.to(weight.device), weight) < LARGEST_DISTANCE * weight.norm():
            kind = type(getattr(optimizer, "optimizer", optimizer)).__name__
            raise UnsupportedError(f"The optimizer, {kind}, holds the weights in its state ({name!r}). {KEEPS_WEIGHTS}")
