"""The norm scaling of an early checkpoint (arXiv 2605.11739): how far it goes with the direction it has."""


def norm_match_factor(early_norm: float, final_norm: float, beta: float) -> float:
    """`1 + beta * (||dW_final|| - ||dW_early||) / ||dW_early||`, by which a module's early update is multiplied.

    Args:
        early_norm: `||dW_early||_F` >= 0 of one weight.
        final_norm: `||dW_final||_F` >= 0 of the same weight.
        beta: 0 leaves the update as it is, 1 gives it the final norm, others extrapolate.

    Returns:
        The factor; 1 for an early update of zeros, which has no direction to scale.
    """
    if early_norm == 0:
        return 1.0
    return 1.0 + beta * (final_norm - early_norm) / early_norm
