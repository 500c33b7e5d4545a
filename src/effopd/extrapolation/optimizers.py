"""What a line search does to the optimizer of torch, which accelerate and DeepSpeed wrap."""

from typing import Any


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
