import math

import pytest
import torch
from linearized.models import COMPLETIONS, flat, logits_one_by_one, make_root, teacher_logits, tiny_model
from torch import Tensor

from effopd.linearized.covariance import (
    cosine,
    distillation,
    gradient_spread,
    half_means,
    reinforcement,
    sampled_distillation,
)
from effopd.linearized.modules import norms_by_kind, norms_by_layer, norms_by_parameter

ROOT, TEACHER = make_root(), teacher_logits()
REWARDS = [1.0, 0.0, 1.0]


def gradients(kind: str) -> Tensor:
    """One gradient per completion, by autograd of the loss as it is written in textbooks."""
    model = tiny_model(0)
    ends = torch.tensor([len(each) for each in COMPLETIONS]).cumsum(0).tolist()
    tokens = torch.tensor([token for each in COMPLETIONS for token in each])
    advantages = [REWARDS[i] - sum(REWARDS[:i] + REWARDS[i + 1 :]) / 2 for i in range(3)]
    found = []
    for index, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
        log_p = logits_one_by_one(model).log_softmax(-1)[start:end]
        log_q = TEACHER.log_softmax(-1)[start:end]
        of_tokens = log_p.gather(-1, tokens[start:end, None])
        if kind == "exact":
            loss = (log_p.exp() * (log_p - log_q)).sum()
        elif kind == "sampled":
            loss = -((log_q.gather(-1, tokens[start:end, None]) - of_tokens).detach() * of_tokens).sum()
        else:
            loss = -advantages[index] * of_tokens.sum()
        parts = torch.autograd.grad(loss, list(model.parameters()))
        found.append(torch.cat([part.reshape(-1) for part in parts]) * 3 / len(tokens))
    return torch.stack(found)


@pytest.mark.parametrize("kind", ["exact", "sampled", "reward"])
def test_spreads_are_those_of_single_gradients(kind: str) -> None:
    derivative = {
        "exact": distillation(TEACHER),
        "sampled": sampled_distillation(ROOT, TEACHER),
        "reward": reinforcement(ROOT, REWARDS),
    }[kind]
    expected = gradients(kind)
    found = gradient_spread(ROOT, derivative)
    torch.testing.assert_close(flat(found.mean), expected.mean(0), rtol=1e-9, atol=1e-12)
    assert found.trace == pytest.approx(expected.T.cov().trace().item(), rel=1e-9)
    assert found.squared_mean == pytest.approx(expected.mean(0).square().sum().item() - found.trace / 3, rel=1e-8)
    low, high = found.interval(0)
    assert low <= found.trace <= high


def test_a_known_mean_gives_the_same_spread() -> None:
    b = ROOT.pull(ROOT.residual(TEACHER))
    known = gradient_spread(ROOT, distillation(TEACHER), {name: -each for name, each in b.items()})
    found = gradient_spread(ROOT, distillation(TEACHER))
    assert known.trace == pytest.approx(found.trace, rel=1e-9)


def test_the_standard_error_is_infinite_where_the_mean_is_lost_in_noise() -> None:
    noisy = gradient_spread(ROOT, reinforcement(ROOT, REWARDS))
    lost = noisy._replace(mean={name: 0 * each for name, each in noisy.mean.items()})
    assert lost.standard_error == math.inf


def test_halves_and_cosines() -> None:
    first, second = half_means(ROOT, distillation(TEACHER))
    assert cosine(first, first) == pytest.approx(1.0)
    assert -1 <= cosine(first, second) < 1
    assert math.isnan(cosine(first, {name: 0 * each for name, each in first.items()}))


def test_norms_by_kind_and_layer_add_up() -> None:
    b = ROOT.pull(ROOT.residual(TEACHER))
    by_parameter = norms_by_parameter(b)
    total = flat(b).norm().item()
    assert math.hypot(*norms_by_kind(by_parameter).values()) == pytest.approx(total)
    assert set(norms_by_kind(by_parameter)) == {"embedding", "attention", "mlp", "norm", "lm_head"}
    in_layer = [norm for name, norm in by_parameter.items() if ".h.0." in name]
    assert norms_by_layer(by_parameter) == {0: pytest.approx(math.hypot(*in_layer))}
