import json
import re
from pathlib import Path

import pytest
import torch
from training.tiny_models import make_tokenizer, write_tiny_llama, write_tiny_qwen3
from transformers import Qwen3Config, Qwen3ForCausalLM

from effopd.errors import ConfigurationError, DataError, UnsupportedError
from effopd.models.load import align_vocab_size, check_vocabularies, load_model, load_tokenizer


@pytest.fixture(scope="module")
def qwen3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_qwen3(tmp_path_factory.mktemp("models") / "qwen3", vocab_padding=20)


def copied(source: Path, target: Path, *, skip: str = "") -> Path:
    target.mkdir()
    for file in source.iterdir():
        if not (skip and file.match(skip)):
            (target / file.name).write_bytes(file.read_bytes())
    return target


def reverse_kl(student_logits: torch.Tensor, teacher_logits: torch.Tensor) -> torch.Tensor:
    student, teacher = student_logits.double().log_softmax(-1), teacher_logits.double().log_softmax(-1)
    return (student.exp() * (student - teacher)).sum(-1)


@torch.no_grad()
def logits(model: Qwen3ForCausalLM, ids: torch.Tensor) -> torch.Tensor:
    return model(ids).logits


def test_load_tokenizer_pads_and_truncates_on_the_left(qwen3: Path) -> None:
    tokenizer = load_tokenizer(qwen3)
    assert (tokenizer.padding_side, tokenizer.truncation_side) == ("left", "left")
    assert tokenizer.decode(tokenizer("Grüße: 7*8")["input_ids"]) == "Grüße: 7*8"
    assert load_tokenizer(str(qwen3), pad_token="<|im_end|>").pad_token == "<|im_end|>"


def test_missing_pad_token_is_an_error_until_one_is_named(tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ConfigurationError, match=re.escape('`pad_token: "<|endoftext|>"`')):
        load_tokenizer(tmp_path)
    assert load_tokenizer(tmp_path, pad_token="<|endoftext|>").pad_token_id == 0
    with pytest.raises(ConfigurationError, match="'<pad>' is not in the vocabulary"):
        load_tokenizer(tmp_path, pad_token="<pad>")


def test_load_model_takes_the_dtype_asked_for(qwen3: Path) -> None:
    assert {parameter.dtype for parameter in load_model(qwen3).parameters()} == {torch.float32}
    model = load_model(qwen3, dtype="auto", attn_implementation="eager")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert model.config._attn_implementation == "eager"
    assert not model.training
    with pytest.raises(ConfigurationError, match="'float31'"):
        load_model(qwen3, dtype="float31")


def test_arguments_of_the_model_that_it_does_not_know(qwen3: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"'colour'\. Is model_init_kwargs right"):
        load_model(qwen3, colour="red")


def test_load_model_refuses_what_is_not_a_model(qwen3: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DataError, match="found nothing"):
        load_model(empty)
    with pytest.raises(DataError, match=r"expected config\.json and \*\.safetensors, found .*tokenizer\.json"):
        load_model(copied(qwen3, tmp_path / "no_config", skip="config.json"))
    with pytest.raises(DataError, match="no weights"):
        load_model(copied(qwen3, tmp_path / "no_weights", skip="*.safetensors*"))
    with pytest.raises(DataError, match="is a file"):
        load_model(qwen3 / "config.json")
    with pytest.raises(ConfigurationError, match="revision"):
        load_model(qwen3, revision="main")


def test_load_model_refuses_incomplete_weights(qwen3: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="model-00002"):
        load_model(copied(qwen3, tmp_path / "no_shard", skip="model-00002*"))
    damaged = copied(qwen3, tmp_path / "damaged")
    shard = damaged / "model-00002-of-00004.safetensors"
    shard.write_bytes(shard.read_bytes()[:1000])
    with pytest.raises(DataError, match="damaged: cannot load the model"):
        load_model(damaged)
    deeper = copied(qwen3, tmp_path / "deeper")
    config = json.loads((deeper / "config.json").read_text())
    config |= {"num_hidden_layers": 3, "layer_types": ["full_attention"] * 3}
    (deeper / "config.json").write_text(json.dumps(config))
    with pytest.raises(DataError, match="lack 11 tensors of Qwen3ForCausalLM"):
        load_model(deeper)


def test_pickled_weights_are_refused_and_the_remedy_works(qwen3: Path, tmp_path: Path) -> None:
    pickled = copied(qwen3, tmp_path / "pickled", skip="*.safetensors*")
    expected = load_model(qwen3).state_dict()
    torch.save(expected, pickled / "pytorch_model.bin")
    with pytest.raises(DataError, match="pickles") as raised:
        load_model(pickled)
    exec("\n".join(line.strip() for line in str(raised.value).splitlines()[1:]))
    converted = load_model(tmp_path / "pickled-safetensors").state_dict()
    assert all(torch.equal(converted[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("name", ["./runs/x", "a/b/c", "~/nowhere-at-all", "/no/such/model"])
@pytest.mark.parametrize("load", [load_model, load_tokenizer])
def test_paths_that_do_not_exist_are_not_looked_up_on_the_hub(name: str, load: object) -> None:
    with pytest.raises(DataError, match="no such file or directory"):
        load(name)  # type: ignore[operator]


def test_a_missing_path_names_its_neighbours(qwen3: Path) -> None:
    with pytest.raises(DataError, match=f"{qwen3.parent} has qwen3"):
        load_model(qwen3.parent / "qwen" / "final")


def test_an_unreachable_hub_is_a_data_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for load in (load_model, load_tokenizer):
        with pytest.raises(DataError, match=r"no such directory here(.|\n)*hf download nobody/nothing"):
            load("nobody/nothing")


def test_equal_vocabularies_pass_whatever_the_padding_and_special_tokens(qwen3: Path, tmp_path: Path) -> None:
    other = load_model(write_tiny_llama(tmp_path, vocab_padding=3))
    special = load_tokenizer(tmp_path, pad_token="<|im_end|>")
    check_vocabularies(load_tokenizer(qwen3), special, load_model(qwen3).config, other.config)


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
