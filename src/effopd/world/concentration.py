"""How many dimensions the first steps of distillation have: the base's gradient in the eigenvectors of its curvature.

If the driving term b lies in a few eigenvectors of the Gauss-Newton matrix A (see `effopd.linearized`), distillation
moves along a few directions, and extrapolating along a line costs little; a task of many dimensions spreads b over
many.
"""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from effopd.files import finite_or_none
from effopd.linearized.contexts import make_contexts
from effopd.linearized.lanczos import lanczos
from effopd.linearized.root import GaussNewtonRoot, completion_logits, dot
from effopd.sampling import evaluation_mode, seeded
from effopd.world.evaluate import sample_batch

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

    Eigenvectors come from the Lanczos method, started at random.

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
    with evaluation_mode(base), seeded(seed, base.device):
        inputs, completions = sample_batch(base, tokenizer, prompts, max_new_tokens)
    ends = completions == tokenizer.eos_token_id
    lengths = (ends.cumsum(1) - ends.long() == 0).sum(1).tolist()
    kept = [row[:length] for row, length in zip(completions.tolist(), lengths, strict=True)]
    root = GaussNewtonRoot(base, make_contexts(inputs["input_ids"].tolist(), kept), micro_batch=len(prompts))
    with torch.no_grad():
        residual = root.residual(completion_logits(teacher, root.contexts))
    pairs = lanczos(
        lambda rows: root.row_product(rows.view_as(residual)).reshape(-1),
        root.random_rows(seed).reshape(1, -1),
        num_steps,
    )
    b = root.pull(residual)
    overlaps = pairs.vectors.T @ root.push(b).reshape(-1) / pairs.values.clamp(min=1e-300).sqrt()
    single = overlaps**2 / dot(b, b)
    shares = single.cumsum(0)
    relative = pairs.residuals / pairs.values.abs()
    return {
        "share_of_b": {str(rank): finite_or_none(shares[min(rank, len(shares)) - 1].item()) for rank in RANKS},
        "largest_share_in_one": finite_or_none(single.max().item()),
        "eigenvalues": pairs.values[:10].tolist(),
        "largest_relative_residual": {str(rank): finite_or_none(relative[:rank].max().item()) for rank in RANKS[1:]},
        "num_completions": len(prompts),
        "num_steps": len(pairs.values),
    }
