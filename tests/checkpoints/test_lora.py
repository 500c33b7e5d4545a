"""An adapter's update is what PEFT merges."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tiny_pairs import copy, write_raw
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from effopd.checkpoints import open_model, open_pair
from effopd.errors import DataError, UnsupportedError

ATTENTION = ["q_proj", "v_proj"]


def write_adapter(
    base: Path, out: Path, dtype: str = "float32", save_embedding_layers: bool = False, **lora: Any
) -> dict[str, torch.Tensor]:
    """Write a random adapter; gives the state of the merged model."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
    model = get_peft_model(model, LoraConfig(**({"r": 4, "lora_alpha": 6, "target_modules": ATTENTION} | lora)))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(out, save_embedding_layers=save_embedding_layers)
    return {name: tensor.detach().clone() for name, tensor in model.merge_and_unload().state_dict().items()}


@pytest.fixture(scope="module")
def llama32(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("models") / "llama32"
    AutoModelForCausalLM.from_pretrained(llama, dtype="float32").save_pretrained(out)
    return out


@pytest.mark.parametrize(
    "lora",
    [
        {},
        {"use_rslora": True},
        {
            "target_modules": [*ATTENTION, "down_proj"],
            "rank_pattern": {"down_proj": 2},
            "alpha_pattern": {"0.self_attn.q_proj": 9},
        },
        {"modules_to_save": ["lm_head"]},
        {"target_modules": ["embed_tokens", "lm_head"]},
        {"target_modules": ["embed_tokens"], "save_embedding_layers": True},
    ],
    ids=["plain", "rslora", "patterns", "modules_to_save", "embedding", "saved_embedding"],
)
def test_updates_are_those_that_peft_merges(llama32: Path, tmp_path: Path, lora: dict[str, Any]) -> None:
    merged = write_adapter(llama32, tmp_path, **lora)
    pair = open_pair(llama32, tmp_path)
    base = open_model(llama32)
    assert set(pair.names) == base.tensors.keys()
    changed = 0
    for name in pair.names:
        original = base.read(name)
        torch.testing.assert_close(pair.delta(name).float(), merged[name] - original, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(pair.read(name)[1], merged[name], atol=1e-6, rtol=1e-5)
        changed += bool(pair.delta(name).any())
    assert changed == sum(not torch.equal(merged[name], base.read(name)) for name in pair.names) > 0


def test_the_update_has_the_rank_and_is_not_rounded(llama: Path, tmp_path: Path) -> None:
    merged = write_adapter(llama, tmp_path, dtype="bfloat16")
    pair = open_pair(llama, tmp_path)
    name = "model.layers.1.self_attn.q_proj.weight"
    singular = torch.linalg.svdvals(pair.delta(name))
    assert (singular > singular[0] * 1e-12).sum() == 4
    trained = pair.read(name)[1]
    assert trained.dtype == torch.bfloat16
    torch.testing.assert_close(trained, merged[name], atol=1e-2, rtol=1e-2)


def test_the_merged_weight_is_rounded_once(tmp_path: Path) -> None:
    """Just above halfway between two bf16 numbers, where float32 cannot tell."""
    name = "model.layers.0.self_attn.q_proj"
    base = write_raw(tmp_path / "base", {f"{name}.weight": torch.ones(2, 2, dtype=torch.bfloat16)})
    low, high = torch.tensor([[2.0**-8, 2.0**-8]]), torch.tensor([[1 + 2.0**-23], [-1.0]])
    factors = {f"base_model.model.{name}.lora_{key}.weight": value for key, value in (("A", low), ("B", high))}
    (tmp_path / "adapter").mkdir()
    save_file(factors, tmp_path / "adapter" / "adapter_model.safetensors")
    (tmp_path / "adapter" / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 1, "lora_alpha": 1}')
    trained = open_pair(base, tmp_path / "adapter").read(f"{name}.weight")[1]
    assert torch.equal(trained, torch.tensor([[1 + 2.0**-7] * 2, [1 - 2.0**-8] * 2], dtype=torch.bfloat16))


def test_transposed_layers_of_gpt2(tmp_path: Path) -> None:
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    config = GPT2Config(vocab_size=32, n_positions=16, n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0)
    GPT2LMHeadModel(config).save_pretrained(base)
    merged = write_adapter(base, adapter, target_modules=["c_attn", "attn.c_proj"], fan_in_fan_out=True)
    pair = open_pair(base, adapter)
    for name in pair.names:
        torch.testing.assert_close(pair.read(name)[1], merged[name], atol=1e-6, rtol=1e-5)
    assert pair.delta("transformer.h.0.attn.c_attn.weight").any()
    assert pair.delta("transformer.h.0.attn.c_proj.weight").any()


def test_a_head_trained_on_a_tied_base(qwen3: Path, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="tie_word_embeddings"):
        write_adapter(qwen3, tmp_path, modules_to_save=["lm_head"])
    pair = open_pair(qwen3, tmp_path)
    saved = load_file(tmp_path / "adapter_model.safetensors")["base_model.model.lm_head.weight"]
    embedding = open_model(qwen3).read("model.embed_tokens.weight")
    assert torch.equal(pair.delta("lm_head.weight"), saved.double() - embedding.double())


def test_an_embedding_that_comes_whole_leaves_the_tied_head_what_it_was(qwen3: Path, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="tie_word_embeddings"):
        merged = write_adapter(qwen3, tmp_path, modules_to_save=["embed_tokens"])
    pair = open_pair(qwen3, tmp_path)
    base = open_model(qwen3).read("model.embed_tokens.weight")
    assert torch.equal(pair.read("model.embed_tokens.weight", torch.float32)[1], merged["model.embed_tokens.weight"])
    assert pair.delta("model.embed_tokens.weight").any()
    assert torch.equal(pair.read("lm_head.weight")[1], base)
    assert not pair.delta("lm_head.weight").any()
    assert torch.equal(merged["lm_head.weight"], base.float())  # as PEFT merges it


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"use_dora": True}, "use_dora=True"),
        ({"peft_type": "IA3"}, "peft_type='IA3'"),
        ({"init_lora_weights": "pissa"}, "'pissa', which changes the base"),
        ({"target_parameters": ["mlp.experts.gate_up_proj"]}, "target_parameters"),
        ({"some_later_variant": 1}, "some_later_variant=1"),
    ],
)
def test_variants_are_refused(llama32: Path, tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    write_adapter(llama32, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps(config | settings))
    with pytest.raises(UnsupportedError, match=message + r".*merge_and_unload"):
        open_pair(llama32, tmp_path)


def test_damaged_adapters(llama32: Path, tmp_path: Path) -> None:
    good = tmp_path / "good"
    write_adapter(llama32, good)
    tensors = load_file(good / "adapter_model.safetensors")
    name = next(iter(tensors))

    def damaged(changes: dict[str, torch.Tensor], dropped: str = "") -> Path:
        out = copy(good, tmp_path / str(len(list(tmp_path.iterdir()))))
        kept = {key: tensor for key, tensor in (tensors | changes).items() if key != dropped}
        save_file(kept, out / "adapter_model.safetensors")
        return out

    vector = torch.zeros(3)
    with pytest.raises(UnsupportedError, match=r"1 tensors do not belong to a plain LoRA: .*magnitude"):
        open_pair(llama32, damaged({name.replace("lora_A.weight", "lora_magnitude_vector"): vector}))
    with pytest.raises(DataError, match=r"1 modules do not have both factors.*ZeRO-3"):
        open_pair(llama32, damaged({}, dropped=name))
    with pytest.raises(DataError, match=r"1 modules do not have both factors.*ZeRO-3"):
        open_pair(llama32, damaged({name: vector}))
    with pytest.raises(DataError, match=r"1 tensors of different shapes: .*q_proj"):
        open_pair(llama32, damaged({name: torch.zeros(4, 7)}))
    stray = {f"base_model.model.model.vision.lora_{ab}.weight": torch.zeros(2, 2) for ab in "AB"}
    with pytest.raises(DataError, match=r"1 tensors only in the trained model: model\.vision\.weight"):
        open_pair(llama32, damaged(stray))
    assert open_pair(llama32, damaged(stray), ignore=["vision"]).ignored == ["model.vision.weight"]


@pytest.mark.parametrize("saved", [False, True])
def test_an_embedding_with_factors_stays_tied_to_the_head(saved: bool, qwen3: Path, tmp_path: Path) -> None:
    """Also where PEFT has saved the base's embedding beside the factors."""
    with pytest.warns(UserWarning, match="tie_word_embeddings"):
        write_adapter(qwen3, tmp_path, target_modules=["embed_tokens"], save_embedding_layers=saved)
    pair = open_pair(qwen3, tmp_path)
    assert pair.names == list(open_model(qwen3).shapes)
    assert pair.delta("model.embed_tokens.weight").any()


def test_integers_of_the_base_are_read_beside_an_adapter(llama32: Path, tmp_path: Path) -> None:
    base = shutil.copytree(llama32, tmp_path / "base")
    (file,) = base.glob("*.safetensors")
    save_file(load_file(file) | {"model.position_ids": torch.arange(9)}, file, metadata={"format": "pt"})
    write_adapter(llama32, tmp_path / "adapter")
    delta, base_square, _ = open_pair(base, tmp_path / "adapter").difference("model.position_ids")
    assert not delta.any()
    assert base_square == pytest.approx(204)
