"""The utility of a parameter: how far an update moved it, beside how far it moved the model on average.

    utility of m = (|dW_m|^2 / |dW|^2) / (n_m / n)

is the share of m in the squared norm of the update, divided by its share of the elements. An update that spreads evenly
over all elements gives every parameter the utility 1; one of 0.5 means half of the model's mean square. The measure is
ours: arXiv 2605.11739 speaks of modules of low marginal utility, and defines no number.
"""

from collections.abc import Mapping


def utilities(moves: Mapping[str, tuple[float, int]]) -> dict[str, float]:
    """Compute the utility of each parameter.

    Args:
        moves: Squared norm of the update and number of elements of each parameter, by name.

    Returns:
        Utilities, at least 0, by name; all are 0 if nothing moved. Their mean, weighted by elements, is 1.
    """
    total = sum(square for square, _ in moves.values())
    elements = sum(number for _, number in moves.values())
    return {
        name: square / total * elements / number if total and number else 0.0
        for name, (square, number) in moves.items()
    }
