"""Intervened models on disk: whole, loadable, recorded, and nothing left of one that failed."""

import json
import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints.tiny_pairs import load_tensors, write_trained
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from effopd import __version__
from effopd.checkpoints import open_model, open_pair
from effopd.errors import ConfigurationError, DataError, UnsupportedError
from effopd.interventions import (
    BottomComponents,
    ReplaceEmbeddings,
    Scale,
    TopComponents,
    Window,
    intervene,
    update_norms,
)

ATTENTION = "model.layers.0.self_attn.q_proj"


def write_adapter(base: Path, out: Path, module: str = ATTENTION) -> Path:
    """A LoRA adapter of rank 3 with alpha 6."""
    rows, columns = open_model(base).shapes.get(f"{module}.weight", (None, None))
    if rows is None:
        rows, columns = open_model(base).shapes["model.embed_tokens.weight"]
    generator = torch.Generator().manual_seed(0)
    out.mkdir()
    factors = {"A": torch.randn(3, columns, generator=generator), "B": torch.randn(rows, 3, generator=generator) / 10}
    prefix = f"base_model.model.{module}"
    save_file({f"{prefix}.lora_{f}.weight": t for f, t in factors.items()}, out / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 3, "lora_alpha": 6, "target_modules": [module]}
    (out / "adapter_config.json").write_text(json.dumps(config))
    return out


@pytest.mark.parametrize("shard_bytes", [10**9, 10_000])
def test_the_trained_model_again(llama: Path, trained_llama: Path, tmp_path: Path, shard_bytes: int) -> None:
    seen: list[tuple[str, int]] = []
    out = tmp_path / "deep" / "out"
    intervene(
        llama,
        trained_llama,
        [TopComponents(100)],
        out,
        max_shard_bytes=shard_bytes,
        progress=lambda *args: seen.append(args),
    )
    expected = load_tensors(trained_llama)
    assert [name for name, _ in seen] == list(open_pair(llama, trained_llama).names)
    assert {total for _, total in seen} == {len(expected)}
    written = load_tensors(out)
    assert written.keys() == expected.keys()
    assert all(torch.equal(written[name].view(torch.int16), expected[name].view(torch.int16)) for name in expected)
    assert (len(list(out.glob("*.safetensors"))) > 1) == (shard_bytes < 10**9)
    assert {path.name for path in out.parent.iterdir()} == {"out"}


def test_it_loads_and_generates(qwen3: Path, trained_qwen3: Path, tmp_path: Path) -> None:
    """Tied embeddings; the tokenizer is the base's, since the trained directory has none."""
    assert not (trained_qwen3 / "tokenizer.json").exists()
    plan = [ReplaceEmbeddings(), TopComponents(25), Scale(0.5)]
    intervene(qwen3, trained_qwen3, plan, tmp_path / "out", max_shard_bytes=10_000)
    model, info = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    assert model.dtype == torch.float32  # in bf16, half of a truncated update would not be what it is meant to be
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert torch.equal(model.lm_head.weight, open_model(qwen3).read("model.embed_tokens.weight").float())
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    inputs = tokenizer("What is 7 times 8?", return_tensors="pt")
    tokens = model.generate(**inputs, max_new_tokens=3, do_sample=False)
    assert tokens.shape[1] > inputs["input_ids"].shape[1]


def test_the_record(llama: Path, trained_llama: Path, other_llama: Path, tmp_path: Path) -> None:
    plan = [Window("mlp", 0, 0), TopComponents(50, norm_like=trained_llama, other="base")]
    record = intervene(llama, trained_llama, plan, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "intervention.json").read_text()) == record
    assert record["base"] == str(llama) and record["trained"] == str(trained_llama)
    assert record["interventions"] == [
        {"window": {"module": "mlp", "centre": 0, "half_width": 0, "other": "base"}},
        {"top": {"percent": 50, "norm_like": str(trained_llama), "other": "base"}},
    ]
    assert record["versions"] == {"effopd": __version__, "torch": torch.__version__}
    norms = update_norms(llama, trained_llama)
    total = sum(norms[name] ** 2 for name in norms if name.startswith("model.layers.0.mlp")) ** 0.5
    for kind in ("total", "mlp"):
        assert record["intended_norm"][kind] == pytest.approx(total)
        assert record["realised_norm"][kind] == pytest.approx(total, rel=1e-2)
        assert 0 < record["relative_error"][kind] < 1e-2  # a large update, which bf16 holds
    for key in ("intended_norm", "realised_norm", "relative_error"):
        assert record[key]["attention"] == record[key]["embedding"] == 0
    assert record["dtype"] == record["stored_dtype"] == "bfloat16"
    assert record["num_bytes"] == sum(file.stat().st_size for file in (tmp_path / "out").glob("*.safetensors"))
    halved = intervene(llama, trained_llama, [Scale(-0.5)], tmp_path / "half")
    assert halved["intended_norm"]["total"] == pytest.approx(sum(norm**2 for norm in norms.values()) ** 0.5 / 2)
    before, after = load_tensors(llama), load_tensors(trained_llama)
    changed = sum(int((before[name] != after[name]).sum()) for name in before)
    assert halved["changed_fraction"] == pytest.approx(changed / sum(map(torch.numel, before.values())))


def test_a_trained_model_in_another_dtype_decides_the_dtype(llama: Path, tmp_path: Path) -> None:
    trained = write_trained(llama, tmp_path / "trained")
    AutoModelForCausalLM.from_pretrained(trained, dtype="float32").save_pretrained(tmp_path / "trained32")
    intervene(llama, tmp_path / "trained32", [Scale(0.5)], tmp_path / "out")
    base, after, out = (load_tensors(path) for path in (llama, trained, tmp_path / "out"))
    for name, tensor in out.items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, ((base[name].double() + after[name].double()) / 2).float())
    intervene(llama, tmp_path / "trained32", [Scale(0)], tmp_path / "zero")
    assert all(torch.equal(tensor, base[name].float()) for name, tensor in load_tensors(tmp_path / "zero").items())


def test_an_adapter(llama: Path, tmp_path: Path) -> None:
    adapter = write_adapter(llama, tmp_path / "adapter")
    pair = open_pair(llama, adapter)
    intervene(llama, adapter, [TopComponents(100)], tmp_path / "all")
    intervene(llama, adapter, [TopComponents(40)], tmp_path / "top")
    intervene(llama, adapter, [BottomComponents(60)], tmp_path / "bottom")
    merged, top, bottom, base = (
        load_tensors(path) for path in (*(tmp_path / p for p in ("all", "top", "bottom")), llama)
    )
    name = f"{ATTENTION}.weight"
    assert torch.equal(merged[name], pair.read(name)[1])
    left, sigma, right = torch.linalg.svd(pair.delta(name))
    expected = base[name].double() + left[:, :2] * sigma[:2] @ right[:2]  # 40 % of rank 3 is 2 components
    assert torch.allclose(top[name].double(), expected, rtol=2**-8, atol=1e-6)
    expected = base[name].double() + left[:, 2:3] * sigma[2] @ right[2:3]
    assert torch.allclose(bottom[name].double(), expected, rtol=2**-8, atol=1e-6)
    assert all(torch.equal(merged[other], base[other]) for other in base.keys() - {name})
    AutoTokenizer.from_pretrained(tmp_path / "top")


def test_an_adapter_of_an_embedding_that_is_the_head_too(qwen3: Path, llama: Path, tmp_path: Path) -> None:
    for number, base in enumerate((qwen3, llama)):  # llama's head is its own: no warning
        adapter = write_adapter(base, tmp_path / f"adapter{number}", "model.embed_tokens")
        with pytest.warns(UserWarning, match="the output head too") if base == qwen3 else nullcontext():
            intervene(base, adapter, [Scale(1)], tmp_path / str(number))


def test_heads_stored_by_one_model_only(qwen3: Path, trained_qwen3: Path, tmp_path: Path) -> None:
    """The model that has a tensor for every name lends its config."""
    model = AutoModelForCausalLM.from_pretrained(qwen3, dtype="auto")
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone() * 2)
    model.save_pretrained(tmp_path / "untied")
    for number, (base, trained) in enumerate([(tmp_path / "untied", trained_qwen3), (qwen3, tmp_path / "untied")]):
        intervene(base, trained, [Scale(1)], tmp_path / str(number))
        assert "lm_head.weight" in load_tensors(tmp_path / str(number))
        assert not json.loads((tmp_path / str(number) / "config.json").read_text())["tie_word_embeddings"]
    with pytest.raises(UnsupportedError, match="an output head of its own"):
        intervene(qwen3, write_adapter(qwen3, tmp_path / "adapter", "lm_head"), [Scale(1)], tmp_path / "out")
    whole = write_adapter(qwen3, tmp_path / "whole")
    table = {"base_model.model.model.embed_tokens.weight": 2 * open_model(qwen3).read("model.embed_tokens.weight")}
    weights = whole / "adapter_model.safetensors"
    save_file(load_file(weights) | table, weights)
    with pytest.raises(UnsupportedError, match="an output head of its own"):
        intervene(qwen3, whole, [Scale(1)], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_tokenizer_and_template_are_those_of_training(qwen3: Path, trained_qwen3: Path, tmp_path: Path) -> None:
    """Also where the config is the base's: the base stores the tied head, or the trained model is an adapter."""
    base = shutil.copytree(qwen3, tmp_path / "base")
    tensors = load_tensors(base)
    for file in base.glob("*.safetensors*"):
        file.unlink()
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    (base / "chat_template.jinja").write_text("the base's")
    (base / "generation_config.json").write_text('{"eos_token_id": 2}')
    whole, adapter = shutil.copytree(trained_qwen3, tmp_path / "whole"), write_adapter(base, tmp_path / "adapter")
    for trained in (whole, adapter):
        shutil.copyfile(base / "tokenizer.json", trained / "tokenizer.json")
        (trained / "generation_config.json").write_text('{"eos_token_id": 7}')
        (trained / "chat_template.jinja").write_text("the trained one's")
        intervene(base, trained, [Scale(1)], out := tmp_path / f"{trained.name}-out")
        assert (out / "chat_template.jinja").read_text() == "the trained one's"
        assert json.loads((out / "generation_config.json").read_text()) == {"eos_token_id": 7}
        (trained / "chat_template.jinja").unlink()
        intervene(base, trained, [Scale(1)], out := tmp_path / f"{trained.name}-without")
        assert not (out / "chat_template.jinja").exists()
    for file in [*adapter.glob("tokenizer*"), adapter / "generation_config.json"]:
        file.unlink()
    intervene(base, adapter, [Scale(1)], out := tmp_path / "none")
    assert (out / "chat_template.jinja").read_text() == "the base's"
    assert json.loads((out / "generation_config.json").read_text()) == {"eos_token_id": 2}


def failing(error: BaseException) -> Any:
    """An intervention that fails at the second layer."""

    class Failing(Scale):
        def apply(self, update: Any) -> Any:
            if ".1." in update.weight.name:
                raise error
            return super().apply(update)

    return Failing(0.5)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_a_failure_leaves_nothing(llama: Path, trained_llama: Path, tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)):
        intervene(llama, trained_llama, [failing(error)], tmp_path / "out", max_shard_bytes=1)
    assert not list(tmp_path.iterdir())


def test_a_failing_record_leaves_nothing(
    llama: Path, trained_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("effopd.interventions.apply.write_json", full)
    with pytest.raises(OSError, match="No space left"):
        intervene(llama, trained_llama, [Scale(0.5)], tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_refusals_come_before_any_work(llama: Path, trained_llama: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("")
    with pytest.raises(DataError, match="not empty"):
        intervene(llama, trained_llama, [Scale(1)], tmp_path / "full")
    with pytest.raises(ConfigurationError, match="got centre 7; expected a layer from 0 to 1"):
        intervene(llama, trained_llama, [Window("mlp", 7)], tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["full"]
    (tmp_path / "empty").mkdir()
    intervene(llama, trained_llama, [Scale(1)], tmp_path / "empty")
    assert (tmp_path / "empty" / "intervention.json").exists()


def test_a_tokenizer_is_not_put_together_from_two(qwen3: Path, trained_qwen3: Path, tmp_path: Path) -> None:
    base, trained = (shutil.copytree(each, tmp_path / each.name) for each in (qwen3, trained_qwen3))
    (base / "chat_template.jinja").write_text("the base's")
    AutoTokenizer.from_pretrained(qwen3).save_pretrained(trained)
    (trained / "chat_template.jinja").unlink(missing_ok=True)
    intervene(base, trained, [Scale(0.5)], tmp_path / "out")
    assert (tmp_path / "out" / "tokenizer.json").exists()
    assert not (tmp_path / "out" / "chat_template.jinja").exists()
