from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from effopd.sampling import sample_tokens, seeded
from effopd.world import ModelSize, concentration
from effopd.world.concentration import measure_concentration
from effopd.world.model import make_model
from effopd.world.tokenizer import make_tokenizer

PROMPTS = ["1+2=", "3*4=", "5-6="]


def write_models(folder: Path) -> tuple[Path, Path]:
    tokenizer = make_tokenizer()
    for seed, name in enumerate(("base", "teacher")):
        torch.manual_seed(seed)
        make_model(ModelSize(4, 4, 1, 2), tokenizer, max_length=16).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return folder / "base", folder / "teacher"


def dense_shares(base_dir: Path, teacher_dir: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Eigenvalues of A and the cumulated shares of |b|^2, from the whole Jacobian, row by row."""
    tokenizer = make_tokenizer()
    base, teacher = (
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64) for folder in (base_dir, teacher_dir)
    )
    inputs = tokenizer(PROMPTS, return_tensors="pt")
    with torch.no_grad(), seeded(7, base.device):
        completions = sample_tokens(
            base, inputs["input_ids"], inputs["attention_mask"], max_new_tokens=3, eos_token_ids=[1], pad_token_id=0
        )
    A, b, total = 0.0, 0.0, 0
    for prompt, completion in zip(inputs["input_ids"], completions, strict=True):
        length = next((place + 1 for place, token in enumerate(completion) if token == 1), len(completion))
        ids = torch.cat([prompt, completion[:length]])[None]
        z = base(ids).logits[0, len(prompt) - 1 : -1]
        gap = (teacher(ids).logits[0, len(prompt) - 1 : -1] - z).detach()
        for place in range(length):
            rows = [torch.autograd.grad(value, list(base.parameters()), retain_graph=True) for value in z[place]]
            J = torch.stack([torch.cat([each.reshape(-1) for each in row]) for row in rows])
            p = z[place].detach().softmax(-1)
            F = torch.diag(p) - torch.outer(p, p)
            A, b, total = A + J.T @ F @ J, b + J.T @ F @ gap[place], total + 1
    eigenvalues, vectors = torch.linalg.eigh(torch.as_tensor(A) / total)
    overlaps = (vectors.T @ torch.as_tensor(b)).flip(0) ** 2
    return eigenvalues.flip(0), overlaps.cumsum(0) / overlaps.sum()


def test_it_agrees_with_the_dense_matrix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(concentration, "RANKS", (1, 3, 5))
    base_dir, teacher_dir = write_models(tmp_path)
    eigenvalues, shares = dense_shares(base_dir, teacher_dir)
    found = measure_concentration(base_dir, teacher_dir, PROMPTS, seed=7, max_new_tokens=3, num_steps=60)
    assert found["eigenvalues"] == pytest.approx(eigenvalues[:10].tolist(), rel=1e-6)
    for rank in (1, 3, 5):
        assert found["share_of_b"][str(rank)] == pytest.approx(shares[rank - 1].item(), abs=1e-6)
    assert found["largest_share_in_one"] == pytest.approx(shares.diff(prepend=torch.zeros(1)).max().item(), abs=1e-6)
    assert found["largest_relative_residual"]["5"] < 1e-6
    assert found["num_completions"] == 3
