import torch

from effopd.objectives import sampled_reverse_kl


def test_expected_gradient_is_that_of_the_reverse_kl() -> None:
    """Averaged over every token the student can sample, weighted by its probability: exactly, not on average."""
    torch.manual_seed(0)
    logits = torch.randn(7, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(7, dtype=torch.float64).log_softmax(0)
    student = logits.log_softmax(0)
    (exact,) = torch.autograd.grad((student.exp() * (student - teacher)).sum(), logits, retain_graph=True)
    expected = torch.zeros_like(logits)
    for token in range(7):
        one = slice(token, token + 1)
        loss, _ = sampled_reverse_kl(student[None, one], teacher[None, one], torch.ones(1, 1))
        (gradient,) = torch.autograd.grad(loss, logits, retain_graph=True)
        expected += student[token].exp().detach() * gradient
    torch.testing.assert_close(expected, exact)


def test_masked_tokens_count_for_nothing() -> None:
    torch.manual_seed(0)
    student = torch.randn(3, 5, requires_grad=True)
    teacher = torch.randn(3, 5)
    mask = torch.tensor([[1, 1, 0, 0, 0], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0]])
    loss, reverse_kl = sampled_reverse_kl(student, teacher, mask)
    loss.backward()
    assert student.grad is not None
    torch.testing.assert_close(student.grad, -(teacher - student.detach()) * mask)
    torch.testing.assert_close(reverse_kl, ((student - teacher) * mask).sum().detach())
    assert not reverse_kl.requires_grad


def test_a_student_equal_to_its_teacher_stays() -> None:
    logprobs = torch.randn(2, 4, requires_grad=True)
    loss, reverse_kl = sampled_reverse_kl(logprobs, logprobs.detach(), torch.ones(2, 4))
    loss.backward()
    assert logprobs.grad is not None
    assert logprobs.grad.abs().max() == 0
    assert reverse_kl == 0


def test_with_importance_ratios_the_reverse_kl_is_that_of_the_new_weights() -> None:
    """Averaged over every token, weighted by the probability with which the old weights sample it."""
    torch.manual_seed(0)
    student, old, teacher = (torch.randn(7, dtype=torch.float64).log_softmax(0) for _ in range(3))
    expected = (student.exp() * (student - teacher)).sum()
    of_tokens = [
        sampled_reverse_kl(
            *(each[None, token : token + 1] for each in (student, teacher)), torch.ones(1, 1), old[token]
        )
        for token in range(7)
    ]
    found = sum(old[token].exp() * reverse_kl for token, (_, reverse_kl) in enumerate(of_tokens))
    torch.testing.assert_close(found, expected)


def test_with_importance_ratios_the_gradient_is_that_of_the_reverse_kl_at_the_new_weights() -> None:
    """Averaged over every token, weighted by the probability with which the old weights sample it."""
    torch.manual_seed(0)
    logits = torch.randn(7, dtype=torch.float64, requires_grad=True)
    old, teacher = (torch.randn(7, dtype=torch.float64).log_softmax(0) for _ in range(2))
    student = logits.log_softmax(0)
    (exact,) = torch.autograd.grad((student.exp() * (student - teacher)).sum(), logits, retain_graph=True)
    expected = torch.zeros_like(logits)
    for token in range(7):
        one = slice(token, token + 1)
        loss, _ = sampled_reverse_kl(student[None, one], teacher[None, one], torch.ones(1, 1), old[None, one])
        (gradient,) = torch.autograd.grad(loss, logits, retain_graph=True)
        expected += old[token].exp() * gradient
    torch.testing.assert_close(expected, exact)
