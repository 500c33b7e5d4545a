"""ExOPD: distillation beyond the teacher, along the way from a reference model to it (arXiv 2602.12125, section 3.2).

Shape suffixes: B sequences, T completion tokens.
"""

import torch


def exopd_target(teacher_BT: torch.Tensor, reference_BT: torch.Tensor, scale: float) -> torch.Tensor:
    """Compute the log-probabilities that take the teacher's place: `lambda * log pi* + (1 - lambda) * log pi_ref`.

    With them, `log pi_theta - target` is `(log pi_theta - log pi_ref) - lambda * (log pi* - log pi_ref)`, which ExOPD
    has in place of the log-ratio of OPD. Over the vocabulary they do not sum up to 1; the constant that is missing is
    the same for all tokens at a prefix, and so has no part in the gradient of the expectation.

    Args:
        teacher_BT: Log-probabilities of tokens under the teacher, in nats, [B, T].
        reference_BT: Log-probabilities of the same tokens under the reference model, [B, T].
        scale: The paper's lambda: 1 gives the teacher to the bit, larger numbers go beyond it.

    Returns:
        The target in nats, [B, T].
    """
    return teacher_BT if scale == 1.0 else scale * teacher_BT + (1.0 - scale) * reference_BT


def exopd_divergence(to_teacher: torch.Tensor, to_reference: torch.Tensor, scale: float) -> torch.Tensor:
    """Compute the expectation of `log pi_theta - target` over the vocabulary, from two reverse KLs.

    It is `lambda * KL(pi_theta || pi*) - (lambda - 1) * KL(pi_theta || pi_ref)`, exactly, and may be negative.

    Args:
        to_teacher: Reverse KL from student to teacher, in nats, of any shape.
        to_reference: Reverse KL from student to reference model, of the same shape.
        scale: The paper's lambda: 1 gives OPD to the bit.

    Returns:
        The objective in nats, of the same shape.
    """
    return to_teacher if scale == 1.0 else scale * to_teacher - (scale - 1.0) * to_reference
