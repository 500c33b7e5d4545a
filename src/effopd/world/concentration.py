"""How many dimensions the first steps of distillation have: the base's gradient in the eigenvectors of its curvature.

With the logits linearised at the base, z = z0 + J d, the loss of on-policy distillation is about d^T A d / 2 - b^T d up
to a constant, where A = E[J^T F J], b = E[J^T F (z_teacher - z0)], F = diag(p0) - p0 p0^T, and the mean is over the
tokens of completions that the base sampled. If b lies in a few eigenvectors of A, distillation moves along a few
directions, and extrapolating along a line costs little; a task of many dimensions spreads b over many.
"""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, jvp, vjp
from transformers import AutoModelForCausalLM, AutoTokenizer

from effopd.files import finite_or_none
from effopd.sampling import evaluation_mode, sample_tokens, seeded

RANKS = (1, 10, 50)


def measure_concentration(
    base_dir: Path,
    teacher_dir: Path,
    prompts: list[str],
    seed: int,
    max_new_tokens: int,
    num_steps: int = 100,
) -> dict[str, Any]:
    """Measure which share of |b|^2 lies in the first eigenvectors of A, in float64 on the CPU.

    Eigenvectors come from the Lanczos method with full reorthogonalisation, started at random. It holds `num_steps`
    vectors as long as the model, in float64.

    Args:
        base_dir: Directory of the base.
        teacher_dir: Directory of the teacher, which has the same tokenizer.
        prompts: Prompts of one length, with one completion each.
        seed: Random seed for sampling, and for the start of the Lanczos method.
        max_new_tokens: Largest number of tokens to sample for a prompt.
        num_steps: Number of products with A, at least the largest of `RANKS`; fewer if the Krylov space ends before.

    Returns:
        `share_of_b` by the number of eigenvectors, as text, and `largest_share_in_one` eigenvector, whichever it is
        (None if b is 0, as for two equal models); the first 10 `eigenvalues`; the `largest_relative_residual`
        ||A u - lambda u|| / lambda of the first 10 and of all eigenvectors that were used, by number;
        `num_completions` and `num_steps`.
    """
    tokenizer = AutoTokenizer.from_pretrained(base_dir)
    base, teacher = (
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager").eval()
        for folder in (base_dir, teacher_dir)
    )
    inputs = tokenizer(prompts, return_tensors="pt")
    with evaluation_mode(base), seeded(seed, base.device):
        completions = sample_tokens(
            base,
            inputs["input_ids"],
            inputs["attention_mask"],
            max_new_tokens=max_new_tokens,
            eos_token_ids=[tokenizer.eos_token_id],
            pad_token_id=tokenizer.pad_token_id,
        )
    ends = completions == tokenizer.eos_token_id
    counts = (ends.cumsum(1) - ends.long() == 0).double()
    b, product = _quadratic(
        base, teacher, torch.cat([inputs["input_ids"], completions], 1), counts / counts.sum(), inputs["input_ids"]
    )
    generator = torch.Generator().manual_seed(seed)
    eigenvalues, residuals, overlaps = _lanczos(product, b, num_steps, generator)
    single = overlaps**2 / b.norm() ** 2
    shares = single.cumsum(0)
    relative = residuals / eigenvalues.abs()
    return {
        "share_of_b": {str(rank): finite_or_none(shares[min(rank, len(shares)) - 1].item()) for rank in RANKS},
        "largest_share_in_one": finite_or_none(single.max().item()),
        "eigenvalues": eigenvalues[:10].tolist(),
        "largest_relative_residual": {str(rank): finite_or_none(relative[:rank].max().item()) for rank in RANKS[1:]},
        "num_completions": len(prompts),
        "num_steps": len(eigenvalues),
    }


def _quadratic(
    base: torch.nn.Module, teacher: torch.nn.Module, ids: Tensor, weights: Tensor, prompt_ids: Tensor
) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Compute b, flattened, and make the function that multiplies A by a flat vector."""
    parameters = {name: parameter.detach() for name, parameter in base.named_parameters()}
    sizes = [parameter.numel() for parameter in parameters.values()]
    places = slice(prompt_ids.shape[1] - 1, -1)

    def logits(at: dict[str, Tensor]) -> Tensor:
        output: Tensor = functional_call(base, at, (ids,), {"use_cache": False}).logits[:, places]
        return output

    linearised: Any = vjp(logits, parameters)
    start, pull_back = linearised
    with torch.no_grad():
        gap = teacher(ids, use_cache=False).logits[:, places] - start
    p: Tensor = start.softmax(-1)

    def weighted_fisher(change: Tensor) -> Tensor:
        return (p * change - p * (p * change).sum(-1, keepdim=True)) * weights[..., None]

    def flat_gradient(cotangent: Tensor) -> Tensor:
        (gradient,) = pull_back(cotangent)
        flat: Tensor = torch.cat([gradient[name].reshape(-1) for name in parameters]).detach()
        return flat

    def product(vector: Tensor) -> Tensor:
        pieces = zip(parameters.items(), vector.split(sizes), strict=True)
        tangent = {name: piece.view_as(parameter) for (name, parameter), piece in pieces}
        with warnings.catch_warnings():  # PyTorch 2.13 still uses it itself
            warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", DeprecationWarning)
            moved: Any = jvp(logits, (parameters,), (tangent,))
        return flat_gradient(weighted_fisher(moved[1]))

    return flat_gradient(weighted_fisher(gap)), product


def _lanczos(
    product: Callable[[Tensor], Tensor], b: Tensor, num_steps: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Return eigenvalues of A in descending order, the norms of their residuals, and the overlaps of b."""
    vector = torch.randn(len(b), dtype=b.dtype, generator=generator)
    basis = torch.empty(min(num_steps, len(b)), len(b), dtype=b.dtype)
    diagonal: list[float] = []
    beside: list[float] = []
    for step in range(len(basis)):
        basis[step] = vector / vector.norm()
        vector = product(basis[step])
        diagonal.append((vector @ basis[step]).item())
        for _ in range(2):  # once is not enough in floating point
            vector -= basis[: step + 1].T @ (basis[: step + 1] @ vector)
        beside.append(vector.norm().item())
        if beside[-1] <= 1e-12 * max(diagonal):
            break
    count = len(diagonal)
    between = torch.tensor(beside[: count - 1], dtype=b.dtype)
    tridiagonal = torch.diag(torch.tensor(diagonal, dtype=b.dtype)) + torch.diag(between, 1) + torch.diag(between, -1)
    eigenvalues, vectors = torch.linalg.eigh(tridiagonal)
    overlaps = vectors.T @ (basis[:count] @ b)
    residuals = beside[-1] * vectors[-1].abs()
    return eigenvalues.flip(0), residuals.flip(0), overlaps.flip(0)
