"""Which parameters the preset `reference` moves, by the names of real architectures, and where others than by kind."""

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPTNeoXConfig, LlamaConfig, OPTConfig, Qwen3Config
from transformers.configuration_utils import PretrainedConfig

from effopd.extrapolation.presets import PRESETS
from effopd.parameters import locate, select

# What the paper's public code looks for in a lower-cased name.
PARTS = (
    *("attn", "self_attn", "attention", "q_proj", "k_proj", "v_proj", "o_proj"),
    *("mlp", "feed_forward", "ffn", "gate_proj", "up_proj", "down_proj"),
)
SIZES = {
    "vocab_size": 32,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id")),
}
LLAMA = {"intermediate_size": 32, "num_key_value_heads": 1}
GPT2 = {"n_embd": 16, "n_layer": 2, "n_head": 2, "vocab_size": 32, "bos_token_id": None, "eos_token_id": None}
# For each architecture, the modules that only `reference` moves, and those that only `attention_and_mlp` does.
CASES = [
    (
        Qwen3Config(**SIZES, **LLAMA, head_dim=8),
        {"post_attention_layernorm", "self_attn.q_norm", "self_attn.k_norm"},
        set(),
    ),
    (LlamaConfig(**SIZES, **LLAMA), {"post_attention_layernorm"}, set()),
    (GPT2Config(**GPT2), set(), set()),
    (GPTNeoXConfig(**SIZES, intermediate_size=32), {"post_attention_layernorm"}, set()),
    (OPTConfig(**SIZES, ffn_dim=32, word_embed_proj_dim=16), {"self_attn_layer_norm"}, {"fc1", "fc2"}),
]


def names(config: PretrainedConfig) -> list[str]:
    with torch.device("meta"):
        return [name for name, _ in AutoModelForCausalLM.from_config(config).named_parameters()]


@pytest.mark.parametrize(
    ("config", "only_reference", "only_by_kind"), CASES, ids=lambda c: getattr(c, "model_type", "")
)
def test_reference_moves_what_the_public_code_does(
    config: PretrainedConfig, only_reference: set[str], only_by_kind: set[str]
) -> None:
    found = select(names(config), PRESETS["reference"].parameters)
    assert found == [name for name in names(config) if any(part in name.lower() for part in PARTS)]
    by_kind = select(names(config), "attention_and_mlp")
    assert {locate(name).module for name in found if name not in by_kind} == only_reference
    assert {locate(name).module for name in by_kind if name not in found} == only_by_kind
    layers = {layer for name in found if (layer := locate(name).layer) is not None}
    assert layers == {0, 1}
    assert not any(locate(name).kind in ("embedding", "lm_head") for name in found)


@pytest.mark.parametrize(
    "name",
    ["h.0.FFN.w1.weight", "layers.0.feed_forward.w2.weight", "layers.0.V_proj.weight", "blocks.3.gate_proj.weight"],
)
def test_bare_names_in_any_case(name: str) -> None:
    assert select([name, "norm.weight"], PRESETS["reference"].parameters) == [name]
