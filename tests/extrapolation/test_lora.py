"""EffOPD on TRL's real trainers with LoRA adapters."""

import math
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.utils import DistributedType
from peft import LoraConfig, PeftModel, get_peft_model
from tiny import assert_same, distillation_trainer, grpo_trainer, tiny_model, weights
from torch import nn

from effopd.checkpoints.lora import open_adapter
from effopd.errors import ConfigurationError, UnsupportedError
from effopd.extrapolation import EffOPDCallback
from effopd.extrapolation.adapters import check_adapter
from effopd.extrapolation.lora_snapshot import LoraSnapshot
from effopd.extrapolation.snapshots import snapshot_of
from extrapolation.scripted import records, script, with_effopd

PLAIN = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "down_proj"], "task_type": "CAUSAL_LM"}


def adapted(**settings: Any) -> Any:
    torch.manual_seed(5)
    return get_peft_model(tiny_model(0), LoraConfig(**PLAIN | settings))


def products(values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The unscaled products B A in float64, by module."""
    return {
        name.removesuffix(".lora_A.default.weight"): values[name.replace("lora_A", "lora_B")].double() @ a.double()
        for name, a in values.items()
        if name.endswith("lora_A.default.weight")
    }


@pytest.mark.parametrize("settings", [{}, {"use_rslora": True}, {"modules_to_save": ["lm_head"]}])
def test_candidates_are_truncated_products_and_what_is_scored_is_kept(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = distillation_trainer(tmp_path, model=adapted(**settings), max_steps=2, learning_rate=1e-2)
    with_effopd(trainer)
    scripted = script(monkeypatch, 0.1, 0.2, 0.1, 0.1, 0.2, 0.3, 0.0)  # 2 accepted, then 2 and 4
    initial = weights(trainer)
    trainer.train()
    seen, rows = scripted.seen, records(tmp_path)
    assert_same(seen[5], weights(trainer))
    changed = {name for name in initial if not torch.equal(initial[name], seen[5][name])}
    assert changed == {name for name, p in trainer.model.named_parameters() if p.requires_grad}
    scaling = 4.0 if "use_rslora" in settings else 2.0
    for anchor, now, candidate, row, scale in (
        (initial, seen[0], seen[1], rows[0], 2.0),
        (seen[1], seen[3], seen[5], rows[1], 4.0),
    ):
        lost, norms = [], []
        for module, product in products(now).items():
            delta = product - products(anchor)[module]
            u, s, vh = torch.linalg.svd(product + scale * delta)
            best = u[:, :4] * s[:4] @ vh[:4]
            torch.testing.assert_close(products(candidate)[module], best, rtol=1e-4, atol=1e-5 * float(s[0]))
            lost.append(float(s[4:].norm() / (scale * delta.norm())))
            norms.append(scaling * float(delta.norm()))
        truncation = next(each["truncation"] for each in row["candidates"] if each["scale"] == scale)
        assert truncation["max"] == pytest.approx(max(lost), rel=1e-4, abs=1e-7)
        assert truncation["mean"] == pytest.approx(sum(lost) / len(lost), rel=1e-4, abs=1e-7)
        assert row["delta_norm"]["attention"] == pytest.approx(math.hypot(*norms[::2]), rel=1e-4)
        for name in (each for each in changed if "lora_" not in each):
            torch.testing.assert_close(candidate[name], now[name] + scale * (now[name] - anchor[name]))
    assert [row["accepted_scale"] for row in rows] == [2, 4]
    assert rows[0]["candidates"][0]["truncation"]["max"] < 1e-6  # B was 0, so rank r is exact
    assert 0 < rows[1]["candidates"][0]["truncation"]["mean"] < 0.5
    assert -1 <= rows[1]["cosine_to_previous"] <= 1


def test_rejecting_everything_is_plain_trl_to_the_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = distillation_trainer(tmp_path / "plain", model=adapted(), max_steps=4)
    plain.train()
    trainer = distillation_trainer(tmp_path / "effopd", model=adapted(), max_steps=4)
    with_effopd(trainer)
    script(monkeypatch, *[0.5, 0.4] * 3)
    trainer.train()
    assert_same(weights(plain), weights(trainer))


@pytest.mark.parametrize(("preset", "settings"), [("paper", {}), ("adaptive", {}), ("line_search", {"passes": 2})])
def test_resuming_is_exact_to_the_bit(preset: str, settings: dict[str, Any], tmp_path: Path) -> None:
    save = {"save_strategy": "steps", "save_steps": 3, "max_steps": 5, "learning_rate": 1e-2}
    whole = distillation_trainer(tmp_path / "whole", model=adapted(), **save)
    with_effopd(whole, preset=preset, **settings)
    whole.train()
    assert any(row["accepted_scale"] for row in records(tmp_path / "whole"))
    shutil.copytree(tmp_path / "whole" / "checkpoint-3", tmp_path / "resumed" / "checkpoint-3")
    shutil.copy(tmp_path / "whole" / "extrapolations.jsonl", tmp_path / "resumed")
    resumed = distillation_trainer(tmp_path / "resumed", model=adapted(), **save)
    with_effopd(resumed, preset=preset, **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "resumed" / "checkpoint-3"))
    assert_same(weights(whole), weights(resumed))
    left, right = records(tmp_path / "whole"), records(tmp_path / "resumed")
    for row in left + right:
        row.pop("validation_seconds"), row.pop("extrapolation_seconds")
    assert left == right


def test_adapter_checkpoints_load_in_peft_and_here(tmp_path: Path) -> None:
    trainer = distillation_trainer(
        tmp_path, model=adapted(), max_steps=2, learning_rate=1e-2, save_strategy="steps", save_steps=2
    )
    with_effopd(trainer, preset="adaptive")
    trainer.train()
    assert any(row["accepted_scale"] for row in records(tmp_path))
    checkpoint = tmp_path / "checkpoint-2"
    loaded = PeftModel.from_pretrained(tiny_model(0), checkpoint)
    assert_same(weights(trainer), weights(SimpleNamespace(model=loaded)))
    factors = open_adapter(checkpoint).factors
    for module, product in products(weights(trainer)).items():
        found = factors[f"{module.removeprefix('base_model.model.')}.weight"]
        torch.testing.assert_close(found.delta(tuple(product.shape)), 2 * product)


def test_grpo_with_a_reference_without_the_adapter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = grpo_trainer(
        tmp_path,
        beta=0.1,
        max_steps=2,
        model=tiny_model(0),
        peft_config=LoraConfig(**PLAIN),
        num_iterations=1,
    )
    with_effopd(trainer)
    frozen = {name: value for name, value in weights(trainer).items() if "lora_" not in name}
    script(monkeypatch, 0.1, 0.2, 0.1, 0.1, 0.2, 0.3, 0.0)
    trainer.train()
    after = weights(trainer)
    assert_same(frozen, {name: after[name] for name in frozen})
    assert [row["accepted_scale"] for row in records(tmp_path)] == [2, 4]


def test_a_frozen_copy_of_the_adapter_as_reference(tmp_path: Path) -> None:
    """GRPO makes one, named `ref`, where the adapter that it is given is to be stayed near to."""
    trainer = grpo_trainer(tmp_path, beta=0.1, max_steps=1, model=adapted())
    assert set(trainer.model.peft_config) == {"default", "ref"}
    reference = {name: value for name, value in weights(trainer).items() if ".ref." in name}
    with_effopd(trainer)
    trainer.train()
    after = weights(trainer)
    assert_same(reference, {name: after[name] for name in reference})
    assert records(tmp_path)[0]["candidates"]


class Other(nn.Module):
    """A model with layers that adapters can be put on other than linear ones."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.conv, self.linear = nn.Embedding(7, 8), nn.Conv1d(8, 8, 3), nn.Linear(8, 8)
        self.mlp = nn.Module()
        self.mlp.experts = nn.Parameter(torch.randn(2, 8, 8))


def trainer_of(model: Any, **settings: Any) -> Any:
    """What the check reads of a trainer."""
    kind = settings.pop("kind", DistributedType.NO)
    return SimpleNamespace(
        model=model, accelerator=SimpleNamespace(distributed_type=kind), args=SimpleNamespace(**settings)
    )


@pytest.mark.parametrize(
    ("target", "message"),
    [("embed", "factors of an embedding, .*embed"), ("conv", "factors of a convolution, .*conv")],
)
def test_adapters_of_other_layers_are_refused(target: str, message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        check_adapter(trainer_of(get_peft_model(Other(), LoraConfig(r=2, target_modules=[target]))))


def test_variants_are_refused(tmp_path: Path) -> None:
    trainer = distillation_trainer(tmp_path, model=adapted(use_dora=True))
    with pytest.raises(UnsupportedError, match=r"a variant of LoRA, DoraLinearVariant, at .*Only plain LoRA"):
        EffOPDCallback(trainer, preset="adaptive", num_prompts=10)
    from peft import IA3Config

    other = IA3Config(target_modules=["down_proj"], feedforward_modules=["down_proj"], task_type="CAUSAL_LM")
    with pytest.raises(UnsupportedError, match="the type IA3"):
        check_adapter(trainer_of(get_peft_model(tiny_model(0), other)))
    experts = LoraConfig(r=2, target_modules=[], target_parameters=["mlp.experts"])
    with pytest.raises(UnsupportedError, match="factors of a stack of experts"):
        check_adapter(trainer_of(get_peft_model(Other(), experts)))


def test_several_adapters_are_refused() -> None:
    model = adapted()
    model.add_adapter("second", LoraConfig(**PLAIN))
    check_adapter(trainer_of(model))  # there, but neither active nor trained
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".second." in name or parameter.requires_grad)
    with pytest.raises(UnsupportedError, match=r"active: \['default'\], trained beside them: \['second'\]"):
        check_adapter(trainer_of(model))
    model.base_model.set_adapter(["default", "second"])
    with pytest.raises(UnsupportedError, match=r"active: \['default', 'second'\]"):
        check_adapter(trainer_of(model))


def test_sharded_adapters_and_quantized_bases_with_vllm_are_refused() -> None:
    model = adapted()
    for kind in (DistributedType.FSDP, DistributedType.DEEPSPEED):
        with pytest.raises(UnsupportedError, match=f"sharded by {kind.value}"):
            check_adapter(trainer_of(model, kind=kind))
    check_adapter(trainer_of(model, use_vllm=True))
    with pytest.warns(UserWarning, match="merges the adapter into the half-precision base"):
        check_adapter(trainer_of(get_peft_model(tiny_model(0, torch.bfloat16), LoraConfig(**PLAIN)), use_vllm=True))
    by_integers = adapted()
    layer = by_integers.get_base_model().model.layers[0].self_attn.k_proj
    layer.weight = nn.Parameter(torch.zeros(4, dtype=torch.uint8), requires_grad=False)  # as 4-bit weights are packed
    model.get_base_model().hf_quantizer = object()
    for quantized in (model, by_integers):
        check_adapter(trainer_of(quantized, use_vllm=False))
        with pytest.raises(UnsupportedError, match="The base model is quantized"):
            check_adapter(trainer_of(quantized, use_vllm=True))


def test_one_factor_alone(tmp_path: Path) -> None:
    trainer = distillation_trainer(tmp_path, model=adapted(), max_steps=1)
    with_effopd(trainer, parameters="lora_B")
    with pytest.raises(ConfigurationError, match="selects one of the two LoRA factors of 4 modules"):
        trainer.train()
    for name, parameter in trainer.model.named_parameters():
        parameter.requires_grad_("lora_B" in name)
    names = [name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad]
    assert not isinstance(snapshot_of(trainer, names, None), LoraSnapshot)  # linear in B, so B itself


def test_a_guide_chooses_modules(tmp_path: Path) -> None:
    model = adapted(init_lora_weights=False)
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    snapshot = snapshot_of(SimpleNamespace(model=model), names, None)
    for name in names:
        parameter = model.get_parameter(name).data
        parameter.add_(0.01 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name))))
    before = weights(SimpleNamespace(model=model))
    displacement = snapshot.displacement()
    assert len(displacement.parameters) == len(names) / 2
    chosen = displacement.moving[0]
    snapshot.begin([chosen])
    snapshot.write_candidate(2.0)
    after = weights(SimpleNamespace(model=model))
    assert {name for name in before if not torch.equal(before[name], after[name])} == {
        f"{chosen}.lora_{factor}.default.weight" for factor in "AB"
    }
    snapshot.write_candidate(0.0)
    assert_same(before, weights(SimpleNamespace(model=model)))


def test_weights_that_are_not_finite_are_rejected(tmp_path: Path) -> None:
    model = adapted()
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    snapshot = snapshot_of(SimpleNamespace(model=model), names, None)
    model.get_parameter(names[0]).data.fill_(3e38)
    model.get_parameter(names[1]).data.fill_(3e38)
    displacement = snapshot.displacement()
    snapshot.begin(displacement.moving)
    snapshot.write_candidate(10.0)
    assert snapshot.candidate_may_overflow(displacement, 10.0)
    assert not snapshot.is_finite()
