from dataclasses import dataclass

import pytest
import torch
from linearized.models import (
    COMPLETIONS,
    PROMPTS,
    contexts,
    dense,
    finite_difference,
    flat,
    make_root,
    teacher_logits,
    tiny_model,
    unflat,
)
from torch import nn

from effopd.errors import ConfigurationError, UnsupportedError
from effopd.linearized.contexts import Contexts, make_contexts
from effopd.linearized.loss import loss_gradient, mean_loss
from effopd.linearized.root import GaussNewtonRoot, plus


def random_vector(root: GaussNewtonRoot, seed: int = 3) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(each.shape, generator=generator, dtype=each.dtype) for name, each in root.parameters.items()
    }


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("micro_batch", [1, 2, 8])
def test_b_and_products_are_those_of_the_dense_matrix(micro_batch: int, temperature: float) -> None:
    root = make_root(micro_batch=micro_batch, temperature=temperature)
    teacher_TV = teacher_logits() / temperature
    A, b = dense(root.model, teacher_TV, temperature)
    torch.testing.assert_close(flat(root.pull(root.residual(teacher_TV))), b, rtol=1e-8, atol=1e-12)
    vector = random_vector(root)
    torch.testing.assert_close(flat(root.product(vector)), A @ flat(vector), rtol=1e-8, atol=1e-12)


def test_the_root_is_a_root_and_its_transpose() -> None:
    root = make_root()
    vector, y = random_vector(root), torch.randn(6, 7, dtype=torch.float64)
    assert (root.push(vector) * y).sum().item() == pytest.approx((flat(vector) @ flat(root.pull(y))).item(), rel=1e-12)
    torch.testing.assert_close(root.row_product(y), root.push(root.pull(y)))


def test_products_are_finite_differences_of_the_model() -> None:
    """The jvp alone: the change of the logits along a line, without any derivative."""
    root = make_root()
    vector = random_vector(root)
    (batch, _), *_ = root.parts()
    with torch.no_grad():
        z = root.logits(root.parameters, batch)
        moved = finite_difference(lambda step: root.logits(plus(root.parameters, vector, step), batch))
    p = z.softmax(-1)
    expected = ((p * (moved - (p * moved).sum(-1, keepdim=True)) ** 2).sum() / len(z)).item()
    assert (root.push(vector) ** 2).sum().item() == pytest.approx(expected, rel=1e-6)


def test_minus_b_is_the_gradient_of_the_true_loss_which_finite_differences_confirm() -> None:
    root, teacher_TV = make_root(), teacher_logits()
    b = flat(root.pull(root.residual(teacher_TV)))
    torch.testing.assert_close(flat(loss_gradient(root, teacher_TV)), -b, rtol=1e-10, atol=1e-13)
    vector = random_vector(root)
    slope = finite_difference(
        lambda step: torch.tensor(mean_loss(root, teacher_TV, plus(root.parameters, vector, step)), dtype=torch.float64)
    )
    assert slope.item() == pytest.approx(-(b @ flat(vector)).item(), rel=1e-6)


def test_tied_embeddings_are_counted_once() -> None:
    model = tiny_model(0, tied=True)
    root, teacher_TV = make_root(model), teacher_logits()
    assert "lm_head.weight" not in root.parameters
    assert "transformer.wte.weight" in root.parameters
    A, b = dense(model, teacher_TV)
    torch.testing.assert_close(flat(root.pull(root.residual(teacher_TV))), b, rtol=1e-8, atol=1e-12)
    vector = random_vector(root)
    torch.testing.assert_close(flat(root.product(vector)), A @ flat(vector), rtol=1e-8, atol=1e-12)


def test_bf16_weights_are_computed_with_in_float32_to_the_bit() -> None:
    stored = tiny_model(0, dtype=torch.bfloat16)
    wide = tiny_model(0, dtype=torch.bfloat16).float()
    teacher_TV = teacher_logits()
    found, expected = make_root(stored), make_root(wide)
    assert {each.dtype for each in found.parameters.values()} == {torch.float32}
    for name, each in expected.pull(expected.residual(teacher_TV)).items():
        assert torch.equal(found.pull(found.residual(teacher_TV))[name], each), name
    vector = random_vector(expected)
    assert torch.equal(flat(found.product(vector)), flat(expected.product(vector)))
    assert {each.dtype for each in stored.parameters()} == {torch.bfloat16}


def shifted(left: int) -> Contexts:
    """The same contexts with padding on the left: prompts are padded to one length, as generation does."""
    width = max(map(len, PROMPTS)) + left
    padding = [width - len(prompt) for prompt in PROMPTS]
    found = make_contexts([[0] * zeros + prompt for zeros, prompt in zip(padding, PROMPTS, strict=True)], COMPLETIONS)
    for row, zeros in enumerate(padding):
        found.attention_mask[row, :zeros] = 0
    return found


@pytest.mark.parametrize("left", [0, 2])
def test_padding_on_the_left_changes_nothing(left: int) -> None:
    plain, padded = make_root(), GaussNewtonRoot(tiny_model(0), shifted(left))
    y = torch.randn(6, 7, dtype=torch.float64)
    torch.testing.assert_close(flat(padded.pull(y)), flat(plain.pull(y)), rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(padded.row_product(y), plain.row_product(y), rtol=1e-10, atol=1e-13)


class LinearModel(nn.Module):
    """Logits W x for fixed features x of each token, so that linearising is exact."""

    def __init__(self, W: torch.Tensor, features: torch.Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(W)
        self.features = features
        self.config = type("Config", (), {"_attn_implementation": "eager"})()
        self.device = W.device

    def forward(self, input_ids: torch.Tensor, logits_to_keep: torch.Tensor, **_: object) -> object:
        @dataclass
        class Output:
            logits: torch.Tensor

        return Output(self.features[input_ids][:, logits_to_keep] @ self.weight.T)


def test_a_linear_model_has_its_closed_form() -> None:
    """A = mean of F_t (x) x_t x_t^T, b = mean of F_t (z* - z0)_t x_t^T."""
    torch.manual_seed(0)
    W, features = torch.randn(4, 3, dtype=torch.float64), torch.randn(7, 3, dtype=torch.float64)
    model = LinearModel(W, features).eval()
    root = GaussNewtonRoot(model, contexts())  # type: ignore[arg-type]
    before = torch.tensor(
        [token for p, c in zip(PROMPTS, COMPLETIONS, strict=True) for token in (p + c)[len(p) - 1 : -1]]
    )
    x_TF = features[before]
    target_TV = torch.randn(6, 4, dtype=torch.float64)
    A, b = torch.zeros(12, 12, dtype=torch.float64), torch.zeros(12, dtype=torch.float64)
    for x, target in zip(x_TF, target_TV, strict=True):
        p = (W @ x).softmax(-1)
        F = torch.diag(p) - torch.outer(p, p)
        A += torch.kron(F, torch.outer(x, x)) / 6
        b += torch.outer(F @ (target - W @ x), x).reshape(-1) / 6
    torch.testing.assert_close(flat(root.pull(root.residual(target_TV))), b, rtol=1e-10, atol=1e-14)
    vector = torch.randn(12, dtype=torch.float64)
    torch.testing.assert_close(flat(root.product(unflat(vector, root.parameters))), A @ vector, rtol=1e-10, atol=1e-14)


def test_models_without_forward_derivatives_and_in_training_mode_are_refused() -> None:
    model = tiny_model(0)
    with pytest.raises(ConfigurationError, match="training mode"):
        make_root(model.train())
    model.eval().set_attn_implementation("sdpa")
    with pytest.raises(UnsupportedError, match="eager"):
        make_root(model)


def test_a_context_without_a_completion_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="without a completion token"):
        GaussNewtonRoot(tiny_model(0), make_contexts([[1], [2]], [[3], []]))
