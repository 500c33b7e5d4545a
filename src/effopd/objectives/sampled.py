"""The estimator of OPD in the paper: a policy gradient on the sampled log-ratio (arXiv 2605.11739, Preliminaries).

Shape suffixes: B sequences, T completion tokens.
"""

import torch


def sampled_reverse_kl(
    student_logprobs_BT: torch.Tensor,
    teacher_logprobs_BT: torch.Tensor,
    mask_BT: torch.Tensor,
    sampling_logprobs_BT: torch.Tensor | None = None,
    weights_BT: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute the policy-gradient loss whose reward for each token is `log pi*(y_t) - log pi_theta(y_t)`, discount 0.

    Its gradient is `-E[(log pi* - log pi_theta) * grad log pi_theta]`, an unbiased estimate of the gradient of the
    reverse KL at each sampled prefix. The loss itself is a surrogate: only its gradient means anything.

    Args:
        student_logprobs_BT: Log-probabilities of the sampled tokens under the student, in nats, with gradients, [B, T].
        teacher_logprobs_BT: Log-probabilities of the same tokens under the teacher, [B, T].
        mask_BT: Mask that is 1 where a token was sampled from the student, else 0, [B, T].
        sampling_logprobs_BT: Log-probabilities of the tokens under the weights that sampled them, in nats, [B, T], if
            the student has moved since. Each token's term is then weighted by its importance ratio. None stands for the
            student's own.
        weights_BT: Further weights of the tokens' terms in the loss, [B, T], see `engine_weights`. None weighs them
            equally.

    Returns:
        The surrogate loss, and the sampled reverse KL in nats without gradients, each summed over the tokens where the
        mask is 1. The importance ratio weighs the reverse KL too, so that it is that of the student of now; further
        weights do not.
    """
    mask_BT = mask_BT.to(student_logprobs_BT.dtype)
    reward_BT = (teacher_logprobs_BT - student_logprobs_BT).detach()
    if sampling_logprobs_BT is None:
        sampling_logprobs_BT = student_logprobs_BT.detach()  # a ratio of 1, with the gradient of the log-probability
    ratio_BT = torch.exp(student_logprobs_BT - sampling_logprobs_BT)
    reverse_kl = -(ratio_BT.detach() * reward_BT * mask_BT).sum()
    if weights_BT is not None:
        ratio_BT = ratio_BT * weights_BT
    return -(ratio_BT * reward_BT * mask_BT).sum(), reverse_kl
