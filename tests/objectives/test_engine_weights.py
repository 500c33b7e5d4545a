import math

import torch

from effopd.objectives import engine_weights, sampled_reverse_kl


def test_weights_are_ratios_truncated_from_above() -> None:
    trainer = torch.tensor([[-1.0, -1.0, -1.0, -1.0, -1.0]], requires_grad=True)
    engine = torch.tensor([[-1.0, -2.0, -30.0, -0.5, math.nan]])
    weights = engine_weights(trainer, engine, 5.0)
    torch.testing.assert_close(weights, torch.tensor([[1.0, math.e, 5.0, math.exp(-0.5), 1.0]]))
    assert not weights.requires_grad


def test_the_gradient_over_all_tokens_that_the_engine_can_sample_is_that_of_the_reverse_kl() -> None:
    """Exactly, not on average; and without the weights, or truncated, it is not."""
    torch.manual_seed(0)
    logits = torch.randn(7, dtype=torch.float64, requires_grad=True)
    engine, teacher = (torch.randn(7, dtype=torch.float64).log_softmax(0) for _ in range(2))
    student = logits.log_softmax(0)
    (exact,) = torch.autograd.grad((student.exp() * (student - teacher)).sum(), logits, retain_graph=True)

    def expected(clip_max: float | None) -> torch.Tensor:
        total = torch.zeros_like(logits)
        for token in range(7):
            one = slice(token, token + 1)
            weights = engine_weights(student[None, one], engine[None, one], clip_max) if clip_max else None
            loss, _ = sampled_reverse_kl(student[None, one], teacher[None, one], torch.ones(1, 1), weights_BT=weights)
            total += engine[token].exp() * torch.autograd.grad(loss, logits, retain_graph=True)[0]
        return total

    torch.testing.assert_close(expected(math.inf), exact)
    for biased in (expected(None), expected(1.0)):
        assert (biased - exact).norm() > 0.05 * exact.norm()


def test_the_reverse_kl_is_not_weighted() -> None:
    student, teacher = torch.randn(2, 3), torch.randn(2, 3)
    mask = torch.ones(2, 3)
    weighted = sampled_reverse_kl(student, teacher, mask, weights_BT=torch.full((2, 3), 2.0))
    plain = sampled_reverse_kl(student, teacher, mask)
    torch.testing.assert_close(weighted[0], 2 * plain[0])
    assert weighted[1] == plain[1]
