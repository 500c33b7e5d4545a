"""In memory: the weights that would be written, and the trained ones back again, bit for bit."""

import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints.tiny_pairs import load_tensors, tiny_mixtral, write_raw, write_tiny, write_trained
from torch import nn
from transformers import AutoModelForCausalLM, GPTNeoXConfig
from typing_extensions import override

from effopd.checkpoints import open_model
from effopd.errors import ConfigurationError, DataError, UnsupportedError
from effopd.interventions import (
    BottomComponents,
    LiveModel,
    NormMatch,
    ReplaceEmbeddings,
    Scale,
    TopComponents,
    Window,
    intervene,
    update_norms,
)
from effopd.interventions.live import _LiveSource
from effopd.interventions.update import new_tensor, new_updates


def load(path: Path, dtype: str = "auto") -> Any:
    return AutoModelForCausalLM.from_pretrained(path, dtype=dtype)


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """Bit for bit."""
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name].view(torch.int16), tensor.view(torch.int16)), name


@pytest.mark.filterwarnings("ignore:The weights of:UserWarning")  # of what bf16 loses
@pytest.mark.parametrize("dtype", ["float32", "stored"])
@pytest.mark.parametrize("models", ["llama", "qwen3"])
def test_it_has_the_weights_that_are_written(
    models: str, dtype: Any, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    base, trained = request.getfixturevalue(models), request.getfixturevalue(f"trained_{models}")
    model = load(trained, "auto" if dtype == "stored" else dtype)
    live, before = LiveModel(model, str(base)), state(model)
    plans: list[list[Any]] = [
        [Scale(0.7)],
        [ReplaceEmbeddings()],
        [Window("mlp", 1, 0)],
        [TopComponents(10)],
        [TopComponents(70, norm_like=str(trained), other="base")],
        [BottomComponents(33)],
        [NormMatch(str(base), beta=0.4), TopComponents(20)],
    ]
    for number, plan in enumerate(plans):
        record = intervene(base, trained, plan, tmp_path / str(number), dtype=dtype)
        written = load_tensors(tmp_path / str(number))
        with live.intervened(*plan) as realised:
            assert_same(state(model), written)
        for kind, each in realised.with_total().items():
            assert each.intended_norm == pytest.approx(record["intended_norm"][kind], rel=1e-12)
            assert each.realised_norm == pytest.approx(record["realised_norm"][kind], rel=1e-12)
            assert each.relative_error == pytest.approx(record["relative_error"][kind], rel=1e-9)
        assert_same(state(model), before)


NEOX = GPTNeoXConfig(
    vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2, bos_token_id=0
)


@pytest.mark.filterwarnings("ignore:The weights of:UserWarning")
@pytest.mark.parametrize("config", [tiny_mixtral(), NEOX], ids=["fused experts", "other names"])
def test_parameters_that_are_stored_in_another_form(config: Any, tmp_path: Path) -> None:
    base = write_tiny(config, tmp_path / "base")
    trained = write_trained(base, tmp_path / "trained")
    model = load(trained)
    before, in_memory = state(model), dict(load(base).named_parameters())
    assert not before.keys() <= open_model(base).tensors.keys()
    norms = update_norms(base, base)
    for number, live in enumerate((LiveModel(model, base), LiveModel(model, load_tensors(base)))):
        for plan in ([Scale(0.7)], [TopComponents(40)], [BottomComponents(33), NormMatch(norms, beta=0.4)]):
            out = tmp_path / f"{number}{len(list(tmp_path.iterdir()))}"
            intervene(base, trained, plan, out, dtype="stored")
            with live.intervened(*plan):
                assert_same(state(model), state(load(out)))
            assert_same(state(model), before)
    with LiveModel(model, in_memory).intervened(Scale(0)):
        assert_same(state(model), state(load(base)))


def test_a_model_may_be_moved(llama: Path, trained_llama: Path) -> None:
    model = load(trained_llama)
    live, before = LiveModel(model, llama), state(model)
    with live.intervened(Scale(0.5)):
        for parameter in model.parameters():  # as model.to(device) does
            parameter.data = parameter.data.clone()
    assert_same(state(model), before)


def test_what_is_not_stored_as_a_part_is_refused(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def reordered(model: Any, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: tensor.flip(0) for name, tensor in state.items()}

    monkeypatch.setattr("transformers.core_model_loading.revert_weight_conversion", reordered)
    with pytest.raises(UnsupportedError, match=r"LlamaForCausalLM holds 21 parameters in another form .*on disk"):
        LiveModel(load(llama), llama)


def test_a_block_that_raises_restores_too(llama: Path, trained_llama: Path) -> None:
    model = load(trained_llama)
    with torch.no_grad():
        model.model.norm.weight[:2] = torch.tensor([-0.0, 1e-40])
    live, before = LiveModel(model, llama), state(model)
    with pytest.raises(KeyboardInterrupt), live.intervened(Scale(0.5)):
        assert not torch.equal(model.lm_head.weight, before["lm_head.weight"])
        raise KeyboardInterrupt
    assert_same(state(model), before)

    class Failing(Scale):
        def apply(self, update: Any) -> Any:
            if update.weight.name == "lm_head.weight":
                raise MemoryError
            return super().apply(update)

    with pytest.raises(MemoryError), live.intervened(Failing(0.5)):
        pass
    assert_same(state(model), before)
    with live.intervened(Scale(0.5)):  # and it can be used again
        pass


def test_only_what_changes_is_touched(llama: Path, trained_llama: Path) -> None:
    model = load(trained_llama)
    live = LiveModel(model, llama)
    versions = {name: parameter._version for name, parameter in model.named_parameters()}
    with live.intervened(ReplaceEmbeddings()):
        pass
    changed = {name for name, parameter in model.named_parameters() if parameter._version != versions[name]}
    assert changed == {"model.embed_tokens.weight"}
    with live.intervened(Scale(1)):
        assert model.lm_head.weight._version == versions["lm_head.weight"]


def test_a_sweep_decomposes_each_matrix_once(llama: Path, trained_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from effopd.interventions import live as module

    calls: list[int] = []
    original = module.decompose
    monkeypatch.setattr(module, "decompose", lambda update: calls.append(1) or original(update))
    for keep, expected in ((True, 14), (False, 42)):
        calls.clear()
        live = LiveModel(load(trained_llama), llama, keep_decompositions=keep)
        for plan in ([TopComponents(10)], [TopComponents(60)], [Scale(0.5), BottomComponents(5)], [Scale(2)]):
            with live.intervened(*plan):
                pass
        assert len(calls) == expected  # seven matrices in each of two layers


def test_a_base_in_memory_and_wrapped_names(llama: Path, trained_llama: Path) -> None:
    base, model = load(llama), load(trained_llama)
    wrapped = nn.ModuleDict({"module": model})
    live = LiveModel(wrapped, dict(base.named_parameters()))
    with live.intervened(Scale(0)):
        assert_same(state(model), state(base))
    norms = update_norms(llama, trained_llama)
    with live.intervened(NormMatch(norms, beta=0.5)):
        assert_same(state(model), state(load(trained_llama)))
    with pytest.raises(DataError, match=r"base that is in memory\. Pass update_norms"), live.intervened(NormMatch("x")):
        pass


def test_logits_are_those_of_the_base_and_the_trained_model(qwen3: Path, trained_qwen3: Path) -> None:
    base, model = load(qwen3), load(trained_qwen3)
    tokens = torch.arange(6)[None]
    with torch.no_grad():
        before, expected = model(tokens).logits, base(tokens).logits
        with LiveModel(model, qwen3).intervened(Scale(0)):
            assert torch.equal(model(tokens).logits, expected)
        assert torch.equal(model(tokens).logits, before)


def test_a_model_loaded_in_another_dtype(llama: Path, trained_llama: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(trained_llama, dtype=torch.float32)
    before, base = state(model), load_tensors(llama)
    with LiveModel(model, llama).intervened(Scale(0.5)):
        for name, tensor in state(model).items():
            assert torch.equal(tensor, ((before[name].double() + base[name].double()) / 2).float())


def test_a_head_that_only_the_model_stores(qwen3: Path) -> None:
    model = load(qwen3)
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach() * 2)
    with LiveModel(model, qwen3).intervened(Scale(0)):
        assert torch.equal(model.lm_head.weight, open_model(qwen3).read("model.embed_tokens.weight"))


def test_experts_of_a_stack(tmp_path: Path) -> None:
    torch.manual_seed(0)
    name = "model.layers.0.mlp.experts.down_proj"
    base, trained = ({name: torch.randn(3, 6, 5)} for _ in range(2))
    paths = [write_raw(tmp_path / str(number), tensors) for number, tensors in enumerate((base, trained))]
    intervene(*paths, [TopComponents(40)], tmp_path / "out")

    class Stack(nn.Module):
        def named_parameters(self, *args: Any, **kwargs: Any) -> Any:
            return iter([(name, self.weight)])

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(trained[name].clone())

    stack = Stack()
    with LiveModel(stack, base).intervened(TopComponents(40)):
        assert torch.equal(stack.weight, load_tensors(tmp_path / "out")[name])
    assert torch.equal(stack.weight, trained[name])


def test_one_experts_update_is_in_memory_at_a_time() -> None:
    torch.manual_seed(0)
    name, alive = "model.layers.0.mlp.experts.down_proj", weakref.WeakSet[torch.Tensor]()
    base, trained = torch.randn(8, 6, 5), torch.randn(8, 6, 5)

    class Counting(_LiveSource):
        @override
        def delta(self, name: str) -> torch.Tensor:
            assert not alive
            found = super().delta(name)
            alive.add(found)
            return found

    source = Counting({name: trained}, {name: base}, {name: (8, 6, 5)}, keep_decompositions=False)
    updates = new_updates(name, (8, 6, 5), [TopComponents(40)], source)
    new = new_tensor(name, updates, torch.float32, torch.bfloat16)
    assert new.tensor.shape == (8, 6, 5)
    assert new.if_stored.relative_error != new.realised.relative_error


@pytest.mark.gpu
def test_on_an_accelerator(llama: Path, trained_llama: Path, tmp_path: Path) -> None:
    model = load(trained_llama).cuda()
    live, before = LiveModel(model, llama), state(model)
    for number, plan in enumerate([[Scale(0.7)], [TopComponents(30)], [NormMatch(str(llama), 0.5)]]):
        intervene(llama, trained_llama, plan, tmp_path / str(number), dtype="stored")
        with live.intervened(*plan):
            for name, tensor in load_tensors(tmp_path / str(number)).items():
                parameter = model.get_parameter(name)
                assert parameter.is_cuda
                assert torch.allclose(parameter.cpu().float(), tensor.float(), rtol=2**-7, atol=1e-6)
        assert_same(state(model), before)


def test_refusals(llama: Path, trained_llama: Path, qwen3: Path) -> None:
    model = load(trained_llama)
    live, before = LiveModel(model, llama), state(model)
    with live.intervened(Scale(0.5)):
        inside = state(model)
        with pytest.raises(ConfigurationError, match="intervened on already"), live.intervened(Scale(0.5)):
            pass
        assert_same(state(model), inside)
    with pytest.raises(ConfigurationError, match="got centre 5"), live.intervened(Window("mlp", 5)):
        pass
    assert_same(state(model), before)
    with pytest.raises(DataError, match=r"lacks 1 of the model's \d+ parameters \(lm_head.weight\)"):
        LiveModel(model, {name: tensor for name, tensor in before.items() if name != "lm_head.weight"})
    with pytest.raises(DataError, match=r"has 1 of another shape \(lm_head.weight\)"):
        LiveModel(model, before | {"lm_head.weight": torch.ones(2, 2)})
    with pytest.raises(UnsupportedError, match=r"on meta; expected whole floating-point parameters"):
        LiveModel(nn.Linear(2, 2, device="meta"), {})
    with torch.no_grad():
        model.lm_head.weight[0, 0] = float("nan")
    with pytest.raises(DataError, match=r"lm_head\.weight: .* is not finite"), live.intervened(Scale(0.5)):
        pass
    assert torch.equal(model.model.norm.weight, before["model.norm.weight"])
