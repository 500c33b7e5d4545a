"""KL on a model's own completions, against a plain computation of everything at once."""

from pathlib import Path

import pytest
import torch
from training.tiny_models import write_tiny_llama, write_tiny_qwen3
from transformers import AutoModelForCausalLM, PreTrainedModel

from effopd.evaluation.divergence import reverse_kl
from effopd.models.vocabulary import PADDING_LOGIT

PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13, 14], [15, 16]]
COMPLETIONS = [[20, 21, 22, 0], [23, 24, 25, 26, 27, 28], [29], []]


def load(path: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(path, dtype="float32")


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("models")
    write_tiny_qwen3(directory / "student")
    write_tiny_llama(directory / "teacher", seed=1)
    write_tiny_llama(directory / "wide", seed=1, vocab_padding=5)
    return directory


def plain_kl(model: PreTrainedModel, teacher: PreTrainedModel, prompt: list[int], completion: list[int]) -> float:
    ids = torch.tensor([prompt + completion])
    with torch.no_grad():
        logits, others = model(ids).logits[0].double(), teacher(ids).logits[0].double()
    if others.shape[-1] < logits.shape[-1]:
        missing = others.mean(-1, keepdim=True) + PADDING_LOGIT
        others = torch.cat([others, missing.expand(-1, logits.shape[-1] - others.shape[-1])], dim=-1)
    log_p, log_q = logits.log_softmax(-1), others[:, : logits.shape[-1]].log_softmax(-1)
    per_position = (log_p.exp() * (log_p - log_q)).sum(-1)
    return float(per_position[len(prompt) - 1 : -1].sum())


@pytest.mark.parametrize(
    ("student", "teacher"), [("student", "teacher"), ("student", "wide"), ("wide", "student"), ("wide", "teacher")]
)
@pytest.mark.parametrize("limits", [{}, {"max_tokens": 7}, {"max_logits": 1500}, {"max_logits": 1}])
def test_equals_the_plain_computation(directory: Path, student: str, teacher: str, limits: dict[str, int]) -> None:
    model, other = load(directory / student), load(directory / teacher)
    expected = [plain_kl(model, other, *pair) if pair[1] else 0.0 for pair in zip(PROMPTS, COMPLETIONS, strict=True)]
    found = reverse_kl(model, other, PROMPTS, COMPLETIONS, **limits)
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert expected[0] > 0.001


def test_is_zero_for_a_teacher_that_is_the_model(directory: Path) -> None:
    model = load(directory / "student")
    assert reverse_kl(model, load(directory / "student"), PROMPTS, COMPLETIONS) == pytest.approx([0.0] * 4, abs=1e-6)


def test_leaves_the_models_as_they_were(directory: Path) -> None:
    model, teacher = load(directory / "student").train(), load(directory / "teacher").eval()
    reverse_kl(model, teacher, PROMPTS, COMPLETIONS)
    assert model.training
    assert not teacher.training
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
