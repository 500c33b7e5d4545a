"""The true loss, the mean reverse KL to the teacher per completion token, along lines and under gradient descent.

The contexts stay fixed, as in the quadratic model: prefixes are those that the base sampled. Teachers' logits [T, V]
are those at the completion tokens, divided by the temperature.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from effopd.linearized.root import GaussNewtonRoot, Vector, dot, plus


class Line(NamedTuple):
    """The loss along a direction D from the base, true and by the quadratic model.

    Attributes:
        scales: Multiples of D.
        true: True loss at each, in nats per token.
        quadratic: Loss of the quadratic model at each.
        best_scale: Multiple of D at which the quadratic model is lowest; None if D leads uphill, or R D is 0.
    """

    scales: list[float]
    true: list[float]
    quadratic: list[float]
    best_scale: float | None


def mean_loss(root: GaussNewtonRoot, teacher_TV: Tensor, at: Mapping[str, Tensor] | None = None) -> float:
    """Compute KL(model || teacher) in nats, the mean over the completion tokens.

    Args:
        root: The model and its contexts.
        teacher_TV: The teacher's logits.
        at: Parameters of the model; None takes the base's.
    """
    total = 0.0
    with torch.no_grad():
        for batch, where in root.parts():
            z = root.logits(at or root.parameters, batch)
            student, teacher = z.log_softmax(-1), teacher_TV[where].to(z).log_softmax(-1)
            total += (student.exp() * (student - teacher)).double().sum().item()
    return max(total, 0.0) / len(root.token_ids)  # rounding may leave less than 0


def loss_gradient(root: GaussNewtonRoot, teacher_TV: Tensor, at: Vector | None = None) -> Vector:
    """Compute the gradient of `mean_loss` by the parameters; at the base it is -b."""
    return root.gradient(lambda z, where: kl_derivative(z, teacher_TV[where].to(z)) / len(root.token_ids), at)


def kl_derivative(z_TV: Tensor, teacher_TV: Tensor) -> Tensor:
    """Compute the derivative of KL(softmax(z) || softmax(teacher)) by z, row by row, [T, V]."""
    p, gap = z_TV.softmax(-1), z_TV.log_softmax(-1) - teacher_TV.log_softmax(-1)
    return p * (gap - (p * gap).sum(-1, keepdim=True))


def loss_along(
    root: GaussNewtonRoot, teacher_TV: Tensor, b: Vector, direction: Vector, scales: Sequence[float]
) -> Line:
    """Compute the loss at base + scale * direction for each scale, and what the quadratic model says of it."""
    base, slope = mean_loss(root, teacher_TV), dot(b, direction)
    curvature = root.push(direction).double().norm().item() ** 2
    true = [mean_loss(root, teacher_TV, plus(root.parameters, direction, scale)) for scale in scales]
    quadratic = [base - scale * slope + scale**2 * curvature / 2 for scale in scales]
    return Line(list(scales), true, quadratic, slope / curvature if slope > 0 and curvature > 0 else None)


def descend(root: GaussNewtonRoot, teacher_TV: Tensor, eta: float, num_steps: int) -> Iterator[Vector]:
    """Yield the displacement from the base after each of `num_steps` steps of gradient descent on the true loss."""
    moved = {name: torch.zeros_like(value) for name, value in root.parameters.items()}
    for _ in range(num_steps):
        moved = plus(moved, loss_gradient(root, teacher_TV, plus(root.parameters, moved)), -eta)
        yield moved
