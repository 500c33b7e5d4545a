"""Tiny models, contexts and dense matrices to hold the matrix-free code against."""

from collections.abc import Callable

import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel

from effopd.linearized.contexts import Contexts, make_contexts
from effopd.linearized.root import GaussNewtonRoot, Vector

VOCAB = 7
PROMPTS = [[1, 2, 3], [4, 5], [6, 1, 2, 2]]
COMPLETIONS = [[3, 1], [2, 6, 5], [4]]


def tiny_model(seed: int, *, tied: bool = False, dtype: torch.dtype = torch.float64) -> GPT2LMHeadModel:
    """A random transformer of one layer, with few enough parameters for a dense matrix.

    It is no Llama, whose normalisation computes in float32 whatever the weights are, so that nothing agrees to 1e-8.
    """
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=VOCAB,
        n_embd=4,
        n_inner=6,
        n_layer=1,
        n_head=2,
        n_positions=16,
        initializer_range=0.5,
        tie_word_embeddings=tied,
        attn_implementation="eager",
    )
    return GPT2LMHeadModel(config).to(dtype).eval()


def contexts() -> Contexts:
    return make_contexts(PROMPTS, COMPLETIONS)


def logits_one_by_one(model: PreTrainedModel) -> Tensor:
    """Logits at the completion tokens, each sequence by itself and without any padding, [T, V]."""
    rows = []
    for prompt, completion in zip(PROMPTS, COMPLETIONS, strict=True):
        ids = torch.tensor([prompt + completion])
        rows.append(model(ids).logits[0, len(prompt) - 1 : -1])
    return torch.cat(rows)


def flat(vector: Vector) -> Tensor:
    return torch.cat([each.reshape(-1) for each in vector.values()])


def unflat(values: Tensor, like: Vector) -> Vector:
    pieces = values.split([each.numel() for each in like.values()])
    return {name: piece.view_as(each) for (name, each), piece in zip(like.items(), pieces, strict=True)}


def dense(model: PreTrainedModel, teacher_TV: Tensor, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """A and b from the whole Jacobian, row by row, by reverse mode only and without padding."""
    parameters = list(model.parameters())
    z_TV = logits_one_by_one(model) / temperature
    A = torch.zeros(sum(p.numel() for p in parameters), sum(p.numel() for p in parameters), dtype=z_TV.dtype)
    b = torch.zeros(len(A), dtype=z_TV.dtype)
    for z_V, target_V in zip(z_TV, teacher_TV, strict=True):
        rows = [torch.autograd.grad(value, parameters, retain_graph=True) for value in z_V]
        J = torch.stack([torch.cat([each.reshape(-1) for each in row]) for row in rows])
        p = z_V.detach().softmax(-1)
        F = torch.diag(p) - torch.outer(p, p)
        A += J.T @ F @ J / len(z_TV)
        b += J.T @ F @ (target_V - z_V.detach()) / len(z_TV)
    return A, b


def teacher_logits() -> Tensor:
    with torch.no_grad():
        return logits_one_by_one(tiny_model(1))


def make_root(model: PreTrainedModel | None = None, **settings: float) -> GaussNewtonRoot:
    return GaussNewtonRoot(model or tiny_model(0), contexts(), **settings)  # type: ignore[arg-type]


def finite_difference(value: Callable[[float], Tensor], step: float = 1e-5) -> Tensor:
    return (value(step) - value(-step)) / (2 * step)
