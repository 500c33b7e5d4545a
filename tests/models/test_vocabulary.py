"""Vocabularies are compared token by token, and aligned without changing what any token means."""

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from training.tiny_models import make_tokenizer, write_tiny_llama, write_tiny_qwen3
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from effopd.errors import ConfigurationError, UnsupportedError
from effopd.models.load import load_model, load_tokenizer
from effopd.models.vocabulary import (
    PADDING_LOGIT,
    align_logits,
    align_vocab_size,
    check_vocabularies,
    check_vocabulary_sizes,
)


def reverse_kl(student_logits: torch.Tensor, teacher_logits: torch.Tensor) -> torch.Tensor:
    student, teacher = student_logits.double().log_softmax(-1), teacher_logits.double().log_softmax(-1)
    return (student.exp() * (student - teacher)).sum(-1)


@torch.no_grad()
def logits(model: Qwen3ForCausalLM, ids: torch.Tensor) -> torch.Tensor:
    return model(ids).logits


def test_equal_vocabularies_pass_whatever_the_padding_and_special_tokens(tmp_path: Path) -> None:
    student = write_tiny_qwen3(tmp_path / "student", vocab_padding=20)
    teacher = write_tiny_llama(tmp_path / "teacher", vocab_padding=3)
    special = load_tokenizer(teacher, pad_token="<|im_end|>")
    check_vocabularies(load_tokenizer(student), special, load_model(student).config, load_model(teacher).config)


def test_differing_vocabularies_are_named_by_example() -> None:
    student, teacher = make_tokenizer(("<a>", "<b>", "<s>")), make_tokenizer(("<b>", "<a>", "<t>", "<u>"))
    config = Qwen3Config(vocab_size=320)
    with pytest.raises(ConfigurationError) as raised:
        check_vocabularies(student, teacher, config, Qwen3Config(vocab_size=384))
    message = str(raised.value)
    assert "5 tokens different ids" in message
    assert "'<a>': student 300, teacher 301" in message
    assert "'<s>': student 302, teacher has none" in message
    assert "'<t>': student has none, teacher 302" in message
    assert "Tokens: student 303, teacher 304. Embedding rows: student 320, teacher 384" in message
    assert "eos_token '<|endoftext|>'" in message


def test_one_of_the_models_without_a_row_for_some_token_is_refused() -> None:
    tokenizer = make_tokenizer()
    narrow, exact, wide = (Qwen3Config(vocab_size=len(tokenizer) + extra) for extra in (-1, 0, 5))
    check_vocabulary_sizes(exact, wide, tokenizer)
    check_vocabulary_sizes(wide, exact, tokenizer)
    check_vocabularies(tokenizer, make_tokenizer(), wide, exact)
    for student, teacher in ((narrow, wide), (wide, narrow)):
        with pytest.raises(ConfigurationError, match=r"The tokenizer has 300 tokens, .* a row for each token"):
            check_vocabulary_sizes(student, teacher, tokenizer)
        with pytest.raises(ConfigurationError, match="a row for each token"):
            check_vocabularies(tokenizer, make_tokenizer(), student, teacher)


def test_ids_may_have_gaps_and_the_largest_one_counts() -> None:
    backend = Tokenizer(WordLevel({"<pad>": 0, "a": 1, "z": 9}))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>")
    assert len(tokenizer) == 3
    with pytest.raises(ConfigurationError, match="The tokenizer has 10 tokens"):
        check_vocabularies(tokenizer, tokenizer, Qwen3Config(vocab_size=12), Qwen3Config(vocab_size=8))


def test_logits_are_cut_or_padded_to_the_students_width() -> None:
    logits = torch.randn(2, 3, 7)
    assert torch.equal(align_logits(logits, 7), logits)
    assert torch.equal(align_logits(logits, 5), logits[..., :5])
    padded = align_logits(logits, 9)
    assert torch.equal(padded[..., :7], logits)
    assert torch.equal(padded[..., 7:], (logits.mean(-1, keepdim=True) + PADDING_LOGIT).expand(2, 3, 2))


def test_logits_far_below_0_leave_the_padding_next_to_no_probability() -> None:
    padded = align_logits(torch.randn(2, 7) - 100, 9)  # as those of GPT-2 are
    assert padded.double().softmax(-1)[:, 7:].max() < 1e-20
    teacher, ids = make_model(90, tied=False), torch.randint(90, (2, 7))
    with torch.no_grad():
        teacher.lm_head.weight += 30 * torch.randn(16)  # all logits of a position move together, some far below 0
        assert logits(teacher, ids).amax(-1).min() < -100
    expected = align_logits(logits(teacher, ids), 100)
    aligned = logits(align_vocab_size(teacher, 100, 80), ids)
    torch.testing.assert_close(aligned, expected, rtol=1e-5, atol=1e-4)
    assert aligned.double().softmax(-1)[..., 90:].max() < 1e-20


def make_model(vocab_size: int, *, tied: bool = True, seed: int = 0, head_bias: bool = False) -> Qwen3ForCausalLM:
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=vocab_size,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        initializer_range=0.5,
        tie_word_embeddings=tied,
        pad_token_id=0,
    )
    model = Qwen3ForCausalLM(config).eval()
    if head_bias:
        model.lm_head.bias = torch.nn.Parameter(torch.randn(vocab_size))
    return model


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("head_bias", [True, False])
def test_wider_teacher_equals_truncated_logits(tied: bool, head_bias: bool) -> None:
    student = make_model(90, seed=1)
    teacher = make_model(100, tied=tied, head_bias=head_bias)
    ids = torch.randint(90, (2, 7))
    embedding = teacher.get_input_embeddings().weight.clone()
    expected_logits = logits(teacher, ids)[..., :90]
    random_state = torch.get_rng_state()
    aligned = align_vocab_size(teacher, 90, 80)
    assert torch.equal(torch.get_rng_state(), random_state)
    aligned.tie_weights()  # as FSDP does
    torch.testing.assert_close(logits(aligned, ids), expected_logits, rtol=0, atol=1e-6)
    expected_kl = reverse_kl(logits(student, ids), expected_logits)
    torch.testing.assert_close(reverse_kl(logits(student, ids), logits(aligned, ids)), expected_kl, rtol=0, atol=1e-6)
    assert torch.equal(aligned.get_input_embeddings().weight, embedding)
    assert aligned.get_output_embeddings().weight.shape == (90, 16)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("head_bias", [True, False])
def test_narrower_teacher_gives_padding_no_mass(tied: bool, head_bias: bool) -> None:
    student = make_model(100, seed=1)
    teacher = make_model(90, tied=tied, head_bias=head_bias)
    ids = torch.randint(90, (2, 7))
    expected_logits = logits(teacher, ids)
    aligned = align_vocab_size(teacher, 100, 80)
    aligned.tie_weights()
    aligned_logits, student_logits = logits(aligned, ids), logits(student, ids)
    torch.testing.assert_close(aligned_logits, align_logits(expected_logits, 100), rtol=1e-6, atol=1e-6)
    expected_kl = reverse_kl(student_logits[..., :90], expected_logits)
    shared_kl = reverse_kl(student_logits[..., :90], aligned_logits[..., :90])
    torch.testing.assert_close(shared_kl, expected_kl, rtol=0, atol=1e-6)
    assert aligned_logits.double().softmax(-1)[..., 90:].sum(-1).max() < 1e-15
    # A student that gives its padding rows no mass has the divergence of the shared vocabulary.
    student_logits[..., 90:] = -50.0
    torch.testing.assert_close(reverse_kl(student_logits, aligned_logits), expected_kl, rtol=0, atol=1e-6)
    assert reverse_kl(logits(student, ids), aligned_logits).isfinite().all()


@pytest.mark.parametrize("rows", [90, 110])
def test_aligned_teacher_reads_any_id_of_the_student_and_is_frozen(rows: int) -> None:
    aligned = align_vocab_size(make_model(rows).train(), 100, 80)
    assert aligned.config.vocab_size == aligned.vocab_size == 100
    assert logits(aligned, torch.tensor([[5, 99]])).isfinite().all()
    assert not aligned.training
    assert not any(parameter.requires_grad for parameter in aligned.parameters())


def test_equal_sizes_only_freeze() -> None:
    teacher = make_model(90)
    aligned = align_vocab_size(teacher, 90, 80)
    assert aligned is teacher
    assert aligned.get_output_embeddings().weight is aligned.get_input_embeddings().weight
    assert not any(parameter.requires_grad for parameter in aligned.parameters())


@pytest.mark.parametrize(("rows", "student_rows"), [(100, 90), (90, 100)])
def test_rows_of_real_tokens_are_never_dropped_or_made_up(rows: int, student_rows: int) -> None:
    with pytest.raises(ConfigurationError, match="The tokenizer has 95 tokens"):
        align_vocab_size(make_model(rows), student_rows, 95)


def test_unalignable_heads_are_refused() -> None:
    scaled = make_model(90)
    scaled.config.logits_scaling = 8.0
    with pytest.raises(UnsupportedError, match="scaled"):
        align_vocab_size(scaled, 100, 80)
    replaced = make_model(90)
    replaced.set_output_embeddings(torch.nn.Sequential(torch.nn.Linear(16, 90)))
    with pytest.raises(UnsupportedError, match="Sequential"):
        align_vocab_size(replaced, 80, 80)
