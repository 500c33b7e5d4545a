"""Shares of b are right on average where the gradients of single completions are mostly noise."""

import pytest
import torch
from linearized.models import flat, make_root, teacher_logits, tiny_model
from torch import Tensor

from effopd.linearized.contexts import Contexts, make_contexts
from effopd.linearized.covariance import distillation, gradient_spread
from effopd.linearized.root import GaussNewtonRoot, completion_logits
from effopd.linearized.spectrum import find_spectrum
from effopd.linearized.unbiased import shares_at, unbiased_shares

VOCAB, INPUTS = 5, 8
FRESH = make_contexts([[1, 2], [3, 3, 1], [6], [5, 4], [2]], [[4, 2], [1], [6, 6, 1], [3], [2, 5]])


def linear_softmax_gradients() -> tuple[Tensor, Tensor]:
    """A linear model z = W x whose inputs are the first unit vectors: F(W x) (teacher - W x) x^T of each, and b.

    An eighth of the inputs teaches one thing loudly; the others teach small things. Every sample sees few inputs.
    """
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(VOCAB, INPUTS, generator=generator, dtype=torch.float64)
    change = 0.3 * torch.randn(VOCAB, INPUTS, generator=generator, dtype=torch.float64)
    change[:, 0] *= 10
    gradients = torch.zeros(INPUTS, VOCAB, INPUTS, dtype=torch.float64)
    for x in range(INPUTS):
        p = student[:, x].softmax(0)
        gradients[x, :, x] = (torch.diag(p) - torch.outer(p, p)) @ change[:, x]
    flat_gradients = gradients.reshape(INPUTS, -1)
    return flat_gradients, flat_gradients.mean(0)


def test_the_shares_of_a_linear_model_are_right_on_average_and_the_plain_ones_are_not() -> None:
    population, b = linear_softmax_gradients()
    vectors = torch.linalg.qr(
        torch.randn(population.shape[1], 4, generator=torch.Generator().manual_seed(1)).double()
    ).Q
    vectors[:, 0] = b / b.norm()  # one of them holds all of b: its true share is 1
    vectors = torch.linalg.qr(vectors).Q
    truth = ((vectors.T @ b) ** 2).cumsum(0) / (b @ b)
    assert truth[0] == pytest.approx(1.0)
    count, repeats = 12, 4000
    generator = torch.Generator().manual_seed(2)
    products, norms, plain = torch.zeros(repeats, 4), torch.zeros(repeats), torch.zeros(repeats)
    for index in range(repeats):
        g = population[torch.randint(INPUTS, (count,), generator=generator)]
        found = unbiased_shares(g @ vectors, g @ g.mean(0), (g**2).sum(1))
        norms[index], products[index] = found.squared_norm, found.shares * found.squared_norm
        mean = g.mean(0)
        plain[index] = (mean @ vectors[:, 0]) ** 2 / (mean @ mean)
    error = norms.std() / repeats**0.5
    assert abs(norms.mean() - b @ b) < 4 * error < 0.1 * (b @ b)
    for k in range(4):
        assert abs(products[:, k].mean() - truth[k] * (b @ b)) < 4 * products[:, k].std() / repeats**0.5
    assert plain.mean() < 0.9  # where the truth is 1


def test_the_jackknife_error_is_the_spread_over_samples() -> None:
    population, _ = linear_softmax_gradients()
    vectors = torch.eye(population.shape[1], dtype=torch.float64)[:, [0, 3, 8]]
    count, generator = 200, torch.Generator().manual_seed(3)
    shares, errors = [], []
    for _ in range(400):
        g = population[torch.randint(INPUTS, (count,), generator=generator)]
        found = unbiased_shares(g @ vectors, g @ g.mean(0), (g**2).sum(1))
        shares.append(found.shares)
        errors.append(found.errors)
    spread = torch.stack(shares).std(0)
    assert torch.stack(errors).mean(0) == pytest.approx(spread, rel=0.15)


def test_shares_of_all_directions_are_one_and_pairs_are_counted_by_hand() -> None:
    g = torch.randn(5, 3, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    found = unbiased_shares(g, g @ g.mean(0), (g**2).sum(1))
    pairs = [(i, j) for i in range(5) for j in range(5) if i != j]
    assert found.squared_norm == pytest.approx(sum((g[i] @ g[j]).item() for i, j in pairs) / 20)
    assert found.shares[0].item() == pytest.approx(
        sum((g[i, 0] * g[j, 0]).item() for i, j in pairs) / 20 / found.squared_norm
    )
    assert found.shares[-1].item() == pytest.approx(1.0)
    assert found.errors[-1].item() == pytest.approx(0.0, abs=1e-6)


def test_a_share_that_is_never_reached_has_no_rank() -> None:
    g = torch.ones(4, 2, dtype=torch.float64)
    whole = unbiased_shares(g, g @ g.mean(0), (g**2).sum(1))
    assert whole.rank_of_share(0.5) == 1 and whole.rank_of_share(0.9) == 2
    assert whole._replace(shares=whole.shares / 2).rank_of_share(0.9) is None
    assert whole._replace(squared_norm=-1.0).rank_of_share(0.5) is None


def single_gradients(fresh: Contexts, teacher_TV: Tensor) -> Tensor:
    """Minus the gradient of each completion's KL, by autograd through the loss as textbooks write it, [N, P]."""
    model, found, start = tiny_model(0), [], 0
    for index in range(len(fresh.input_ids)):
        z = completion_logits(model, fresh.rows(index, index + 1))
        log_p, log_q = z.log_softmax(-1), teacher_TV[start : start + len(z)].log_softmax(-1)
        start += len(z)
        loss = (log_p.exp() * (log_p - log_q)).sum()
        parts = torch.autograd.grad(loss, list(model.parameters()))
        found.append(-torch.cat([part.reshape(-1) for part in parts]))
    return torch.stack(found) * len(found) / fresh.num_tokens


def test_shares_at_fresh_contexts_are_those_of_single_gradients() -> None:
    root, fresh = make_root(), GaussNewtonRoot(tiny_model(0), FRESH, micro_batch=2)
    with torch.no_grad():
        teacher_TV = completion_logits(tiny_model(1), FRESH)
    spectrum = find_spectrum(root, root.residual(teacher_logits()), 8, 0)
    spread = gradient_spread(fresh, distillation(teacher_TV))
    found = shares_at(root, spectrum, fresh, fresh.residual(teacher_TV), spread)
    g = single_gradients(FRESH, teacher_TV)
    rows = [root.pull(spectrum.row_vectors[:, k].view(len(root.token_ids), -1)) for k in range(8)]
    u = torch.stack([flat(each) for each in rows], 1) / spectrum.values.sqrt()
    torch.testing.assert_close(u.T @ u, torch.eye(8, dtype=torch.float64), atol=1e-8, rtol=0)
    expected = unbiased_shares(g @ u, g @ g.mean(0), (g**2).sum(1))
    assert found.squared_norm == pytest.approx(expected.squared_norm, rel=1e-8)
    assert found.squared_norm == pytest.approx(spread.squared_mean, rel=1e-8)
    torch.testing.assert_close(found.shares, expected.shares, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(found.errors, expected.errors, rtol=1e-7, atol=1e-9)


def test_eigenvectors_of_rounding_errors_are_left_out() -> None:
    root = make_root()
    spectrum = find_spectrum(root, root.residual(teacher_logits()), 6, 0)
    cut = spectrum._replace(values=torch.cat([spectrum.values[:4], 1e-9 * spectrum.values[4:]]))
    spread = gradient_spread(root, distillation(teacher_logits()))
    assert len(shares_at(root, cut, root, root.residual(teacher_logits()), spread).shares) == 4
