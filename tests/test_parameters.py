import pytest

from effopd.errors import ConfigurationError
from effopd.parameters import Location, by_clean_name, clean_name, locate, select


@pytest.mark.parametrize(
    ("name", "location"),
    [
        ("model.layers.3.self_attn.q_proj.weight", Location(3, "self_attn.q_proj", "attention")),
        ("model.layers.11.self_attn.qkv_proj.bias", Location(11, "self_attn.qkv_proj", "attention")),
        ("model.layers.0.self_attn.q_norm.weight", Location(0, "self_attn.q_norm", "norm")),
        ("model.layers.0.post_attention_layernorm.weight", Location(0, "post_attention_layernorm", "norm")),
        ("model.layers.7.mlp.gate_up_proj.weight", Location(7, "mlp.gate_up_proj", "mlp")),
        ("model.layers.7.mlp.experts.gate_up_proj", Location(7, "mlp.experts.gate_up_proj", "mlp")),
        ("model.layers.2.block_sparse_moe.gate.weight", Location(2, "block_sparse_moe.gate", "mlp")),
        ("transformer.h.5.attn.c_attn.weight", Location(5, "attn.c_attn", "attention")),
        ("transformer.h.5.ln_1.weight", Location(5, "ln_1", "norm")),
        ("transformer.wte.weight", Location(None, "transformer.wte", "embedding")),
        ("model.embed_tokens.weight", Location(None, "model.embed_tokens", "embedding")),
        ("model.norm.weight", Location(None, "model.norm", "norm")),
        ("model.layers.0.self_attn.q_layernorm.norms.0.weight", Location(0, "self_attn.q_layernorm.norms.0", "norm")),
        ("bert.encoder.layer.1.attention.output.LayerNorm.bias", Location(1, "attention.output.LayerNorm", "norm")),
        ("lm_head.weight", Location(None, "lm_head", "lm_head")),
        ("model.decoder.layers.4.fc1.weight", Location(4, "fc1", "mlp")),
        ("output.weight", Location(None, "output", "lm_head")),
        ("bert.encoder.layer.1.attention.output.dense.weight", Location(1, "attention.output.dense", "attention")),
        ("model.language_model.layers.3.self_attn.q_proj.weight", Location(3, "self_attn.q_proj", "attention")),
        ("language_model.model.layers.3.mlp.up_proj.weight", Location(3, "mlp.up_proj", "mlp")),
        ("model.visual.blocks.3.attn.qkv.weight", Location(3, "visual.attn.qkv", "attention")),
        ("vision_tower.encoder.layers.3.mlp.fc1.weight", Location(3, "vision_tower.mlp.fc1", "mlp")),
        ("model.visual.merger.mlp.0.weight", Location(None, "model.visual.merger.mlp.0", "mlp")),
        ("transformer.blocks.3.norm_attn_norm.attn.Wqkv.weight", Location(3, "norm_attn_norm.attn.Wqkv", "attention")),
        ("transformer.blocks.3.norm_attn_norm.norm_1.weight", Location(3, "norm_attn_norm.norm_1", "norm")),
        ("model.visual.patch_embed.proj.weight", Location(None, "model.visual.patch_embed.proj", "other")),
        ("model.rotary.inverse_frequency", Location(None, "model.rotary.inverse_frequency", "other")),
    ],
)
def test_locate(name: str, location: Location) -> None:
    assert locate(name) == location


@pytest.mark.parametrize(
    "wrapped",
    [
        "module.model.layers.3.mlp.up_proj.weight",
        "_orig_mod.model.layers.3.mlp.up_proj.weight",
        "model.layers.3._checkpoint_wrapped_module.mlp.up_proj.weight",
        "module._orig_mod.model.layers.3.mlp.up_proj.weight",
    ],
)
def test_wrappers_do_not_change_a_name(wrapped: str) -> None:
    assert clean_name(wrapped) == "model.layers.3.mlp.up_proj.weight"
    assert locate(wrapped) == Location(3, "mlp.up_proj", "mlp")


def test_names_that_only_wrappers_tell_apart_are_refused() -> None:
    assert by_clean_name([("module.a", 1), ("b", 2)]) == {"a": 1, "b": 2}
    with pytest.raises(ConfigurationError, match=r"0\.weight and 0\.module\.weight cannot be told apart"):
        by_clean_name([("0.bias", 0), ("0.weight", 1), ("0.module.weight", 2)])


NAMES = [
    "model.embed_tokens.weight",
    "model.layers.0.self_attn.q_proj.weight",
    "model.layers.0.mlp.up_proj.weight",
    "model.layers.0.post_attention_layernorm.weight",
    "lm_head.weight",
]


@pytest.mark.parametrize(
    ("selection", "indices"),
    [
        ("all", [0, 1, 2, 3, 4]),
        ("attention_and_mlp", [1, 2]),
        ("attn|attention|mlp", [1, 2, 3]),
        (r"layers\.0\.mlp", [2]),
    ],
)
def test_select(selection: str, indices: list[int]) -> None:
    assert select(NAMES, selection) == [NAMES[i] for i in indices]


def test_select_says_what_is_wrong() -> None:
    with pytest.raises(ConfigurationError, match=r"matches none of the 5 trainable.*model\.embed_tokens"):
        select(NAMES, "experts")
    with pytest.raises(ConfigurationError, match="not a regular expression"):
        select(NAMES, "(")
