"""Updates are exact differences, and models that do not match are refused by name."""

import pickle
from pathlib import Path

import pytest
import torch
from tiny_pairs import load_tensors, write_raw, write_trained
from training.tiny_models import write_tiny_qwen3
from transformers import AutoModelForCausalLM

from effopd.checkpoints import open_pair
from effopd.errors import ConfigurationError, DataError


def test_the_update_is_the_exact_difference(llama: Path, trained_llama: Path) -> None:
    pair = pickle.loads(pickle.dumps(open_pair(llama, trained_llama)))
    base, trained = load_tensors(llama), load_tensors(trained_llama)
    assert set(pair.names) == base.keys()
    assert pair.ignored == pair.other == []
    for name in pair.names:
        delta = pair.delta(name)
        assert delta.dtype == torch.float64
        assert torch.equal(delta, trained[name].double() - base[name].double())
        assert pair.shapes[name] == tuple(delta.shape)
        for found, expected in zip(pair.read(name), (base[name], trained[name]), strict=True):
            assert torch.equal(found, expected)
        assert pair.unchanged_fraction(name) == pytest.approx((delta == 0).double().mean().item())
        window = (slice(1, 5), slice(2, 3))[: delta.ndim]
        assert torch.equal(pair.delta(name, *window), delta[window])
    assert not open_pair(llama, llama).delta("lm_head.weight", slice(3), slice(2, 4)).any()


def test_matrices_are_the_2d_weights(llama: Path, trained_llama: Path) -> None:
    pair = open_pair(llama, trained_llama)
    assert pair.matrices == {name: shape for name, shape in pair.shapes.items() if "norm" not in name}


def test_a_model_against_itself_has_no_update(llama: Path) -> None:
    pair = open_pair(llama, llama)
    assert not any(pair.delta(name).any() for name in pair.names)
    assert pair.unchanged_fraction("lm_head.weight") == 1


def test_stacked_experts_are_matrices_one_by_one(tmp_path: Path) -> None:
    stack = "model.layers.1.mlp.experts.gate_up_proj"
    tensors = {
        stack: torch.randn(3, 4, 5),
        "model.layers.1.mlp.experts.gate_up_proj_bias": torch.randn(3, 5),
        "model.layers.1.linear_attn.conv1d.weight": torch.randn(6, 1, 4),
        "model.layers.1.mystery.weight": torch.randn(2, 2),
    }
    base = write_raw(tmp_path / "base", tensors)
    trained = write_raw(tmp_path / "trained", {name: tensor + torch.rand(()) for name, tensor in tensors.items()})
    pair = open_pair(base, trained)
    experts = {f"{stack}[{expert}]": (4, 5) for expert in range(3)}
    assert pair.matrices == experts | {"model.layers.1.mystery.weight": (2, 2)}
    assert pair.other == ["model.layers.1.mystery.weight"]
    assert torch.equal(torch.stack([pair.delta(name) for name in experts]), pair.delta(stack))
    assert not open_pair(base, base).delta(f"{stack}[0]").any()
    assert torch.equal(pair.delta(f"{stack}[1]", slice(1, 3), slice(0, 2)), pair.delta(f"{stack}[1]")[1:3, :2])


def test_a_head_that_one_model_ties_is_read_from_its_embedding(qwen3: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(qwen3, dtype="auto")
    head = torch.nn.Parameter(model.lm_head.weight.detach() + 1)
    model.config.tie_word_embeddings = False
    model.all_tied_weights_keys = {}
    model.lm_head.weight = head
    model.save_pretrained(tmp_path)
    assert "lm_head.weight" not in open_pair(qwen3, qwen3).names
    embedding = load_tensors(qwen3)["model.embed_tokens.weight"].double()
    for pair, sign in ((open_pair(qwen3, tmp_path), 1), (open_pair(tmp_path, qwen3), -1)):
        assert "lm_head.weight" in pair.matrices
        assert torch.equal(pair.delta("lm_head.weight"), sign * (head.detach().double() - embedding))
        assert not pair.delta("model.embed_tokens.weight").any()


def test_a_missing_head_of_an_untied_model_is_no_match(llama: Path, tmp_path: Path) -> None:
    tensors = load_tensors(llama)
    del tensors["lm_head.weight"]
    with pytest.raises(DataError, match=r"1 tensors only in the base: lm_head\.weight"):
        open_pair(llama, write_raw(tmp_path / "m", tensors, tie_word_embeddings=False))


def test_different_models_are_named_up_to_ten(llama: Path, qwen3: Path) -> None:
    with pytest.raises(DataError) as caught:
        open_pair(qwen3, write_tiny_qwen3(llama.with_name("deeper"), num_layers=4))
    assert "22 tensors only in the trained model: model.layers.2.input_layernorm.weight" in str(caught.value)
    assert "and 12 more" in str(caught.value)
    assert "An analysis can leave tensors out too: `ignore`" in str(caught.value)


def test_a_resized_embedding(qwen3: Path, tmp_path: Path) -> None:
    bigger = write_tiny_qwen3(tmp_path, vocab_padding=8)
    with pytest.raises(DataError, match=r"(?s)1 tensors of different shapes: model\.embed_tokens.*was resized"):
        open_pair(qwen3, bigger)
    pair = open_pair(qwen3, bigger, ignore=[r"embed_tokens"])
    assert pair.ignored == ["model.embed_tokens.weight"]
    assert "model.embed_tokens.weight" not in pair.names
    with pytest.raises(DataError, match="is no tensor of this pair"):
        pair.delta("model.embed_tokens.weight")


def test_fused_against_separate_projections(tmp_path: Path) -> None:
    separate = {f"model.layers.0.self_attn.{part}_proj.weight": torch.zeros(2, 2) for part in "qkv"}
    fused = {"model.layers.0.self_attn.qkv_proj.weight": torch.zeros(6, 2)}
    stacked = {"model.layers.0.mlp.experts.down_proj": torch.zeros(2, 2, 2)}
    single = {f"model.layers.0.mlp.experts.{e}.down_proj.weight": torch.zeros(2, 2) for e in range(2)}
    paths = [write_raw(tmp_path / str(i), tensors) for i, tensors in enumerate((separate, fused, single, stacked))]
    for one, two in (paths[:2], paths[1::-1], paths[2:]):
        with pytest.raises(DataError, match="One stores projections or experts fused, the other separately"):
            open_pair(one, two)


def test_a_diverged_model(llama: Path, tmp_path: Path) -> None:
    tensors = load_tensors(llama)
    tensors["model.norm.weight"][3] = float("nan")
    pair = open_pair(llama, write_raw(tmp_path / "m", tensors))
    with pytest.raises(DataError, match=r"model\.norm\.weight: .*not finite"):
        pair.delta("model.norm.weight")


def test_a_base_that_is_not_finite(llama: Path, tmp_path: Path) -> None:
    tensors = load_tensors(llama)
    tensors["model.norm.weight"][3] = float("inf")
    pair = open_pair(write_raw(tmp_path / "base", tensors), llama)
    with pytest.raises(DataError, match=r"model\.norm\.weight: the base .*base holds NaN or infinite"):
        pair.delta("model.norm.weight")


def test_patterns_are_checked(llama: Path) -> None:
    with pytest.raises(ConfigurationError, match="is not a regular expression"):
        open_pair(llama, llama, ignore=["("])
    with pytest.raises(ConfigurationError, match="expected a list"):
        open_pair(llama, llama, ignore="norm")


def test_dtypes_may_differ(llama: Path, tmp_path: Path) -> None:
    half = AutoModelForCausalLM.from_pretrained(llama, dtype="float32")
    half.save_pretrained(tmp_path)
    pair = open_pair(llama, write_trained(tmp_path, tmp_path / "trained"))
    name = "model.layers.0.mlp.up_proj.weight"
    base, trained = pair.read(name)
    assert (base.dtype, trained.dtype) == (torch.bfloat16, torch.float32)
    assert torch.equal(pair.delta(name), trained.double() - base.double())
