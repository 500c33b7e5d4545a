"""Each intervention on the updates of a pair, and what every one of them refuses."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints.tiny_pairs import load_tensors, write_raw

from effopd.checkpoints import Pair, open_pair
from effopd.errors import ConfigurationError, DataError
from effopd.interventions import (
    BottomComponents,
    Intervention,
    NormMatch,
    ReplaceEmbeddings,
    Scale,
    TopComponents,
    Window,
    decompose,
    update_norms,
)
from effopd.interventions.apply import PairSource
from effopd.interventions.update import Update, Weight, is_matrix, new_tensor, units
from effopd.parameters import locate


@pytest.fixture(scope="module")
def pair(llama: Path, trained_llama: Path) -> Pair:
    return open_pair(llama, trained_llama)


def weights(pair: Pair, interventions: Sequence[Intervention]) -> dict[str, torch.Tensor]:
    source = PairSource(pair)
    return {name: new_tensor(name, shape, interventions, source).tensor for name, shape in pair.shapes.items()}


def updates(pair: Pair, interventions: Sequence[Intervention]) -> dict[str, torch.Tensor]:
    """New updates before rounding."""
    source, found = PairSource(pair), {}
    for name, shape in pair.shapes.items():
        for part, part_shape in units(name, shape).items():
            update = Update(Weight(part, part_shape, source))
            for intervention in interventions:
                update = intervention.apply(update)
            found[part] = update.coefficient * update.tensor
    return found


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """Bit for bit."""
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name].view(torch.int16), tensor.view(torch.int16)), name


@pytest.mark.parametrize(
    "identity",
    [
        [],
        [Scale(1)],
        [Scale(2), Scale(0.5)],
        [TopComponents(100)],
        [TopComponents(99.9)],  # rounds up to all components of matrices this small
        [BottomComponents(100)],
        [Window("both", 0, 9, other="trained")],
        [Window("mlp", 1, 1, other="trained")],
    ],
    ids=str,
)
def test_identities_give_the_trained_weights_to_the_bit(pair: Pair, identity: list[Intervention]) -> None:
    assert_same(weights(pair, identity), load_tensors(pair.trained.directory))


def test_own_norms_change_nothing(pair: Pair) -> None:
    own = str(pair.trained.directory)
    trained = load_tensors(pair.trained.directory)
    assert_same(weights(pair, [NormMatch(own)]), trained)
    assert_same(weights(pair, [NormMatch(own, beta=0)]), trained)
    assert_same(weights(pair, [TopComponents(100, norm_like=own)]), trained)


@pytest.mark.parametrize("nothing", [[Scale(0)], [Scale(-0.0)], [Scale(0), NormMatch({"x": 1.0})]], ids=str)
def test_zero_gives_the_base_to_the_bit(pair: Pair, nothing: list[Intervention]) -> None:
    assert_same(weights(pair, nothing), load_tensors(pair.base.directory))


def test_scale_multiplies_every_update(pair: Pair) -> None:
    for name, update in updates(pair, [Scale(-1.5)]).items():
        assert torch.equal(update, -1.5 * pair.delta(name))
    for name, tensor in weights(pair, [Scale(0.25)]).items():
        exact = pair.base.read(name).double() + 0.25 * pair.delta(name)
        assert torch.allclose(tensor.double(), exact, rtol=2**-8, atol=0)


def test_a_window_over_all_layers_has_the_trained_modules_and_the_base_elsewhere(pair: Pair) -> None:
    for module in ("mlp", "attention", "both"):
        changed = weights(pair, [Window(module, 0, 9)])
        for name, tensor in changed.items():
            kinds = ("mlp", "attention") if module == "both" else (module,)
            source = pair.trained if locate(name).kind in kinds else pair.base
            assert torch.equal(tensor, source.read(name)), name


def test_windows_are_cut_off_at_the_ends(qwen3: Path, trained_qwen3: Path) -> None:
    pair = open_pair(qwen3, trained_qwen3)
    for centre, half_width, layers in [
        (0, 0, {0}),
        (0, 1, {0, 1}),
        (1, 1, {0, 1, 2}),
        (2, 1, {1, 2}),
        (2, 8, {0, 1, 2}),
    ]:
        for module in ("mlp", "attention"):
            inside = {name for name in pair.names if locate(name).kind == module and locate(name).layer in layers}
            changed = weights(pair, [Window(module, centre, half_width)])
            assert {n for n, tensor in changed.items() if not torch.equal(tensor, pair.base.read(n))} == inside
            rest = weights(pair, [Window(module, centre, half_width, other="trained")])
            outside = {n for n, tensor in rest.items() if not torch.equal(tensor, pair.trained.read(n))}
            assert outside == {n for n in pair.names if locate(n).kind == module} - inside


def test_embeddings_are_the_bases_and_an_untied_head_is_not(pair: Pair) -> None:
    changed = weights(pair, [ReplaceEmbeddings()])
    for name, tensor in changed.items():
        source = pair.base if name == "model.embed_tokens.weight" else pair.trained
        assert torch.equal(tensor, source.read(name))


@pytest.mark.parametrize("stored", ["base", "trained", "both", "neither"])
def test_a_tied_head_goes_with_its_embedding(tmp_path: Path, stored: str) -> None:
    embedding = {"base": torch.randn(8, 4), "trained": torch.randn(8, 4)}
    models = {}
    for which, tensor in embedding.items():
        tensors = {"model.embed_tokens.weight": tensor, "model.layers.0.mlp.up_proj.weight": torch.randn(4, 4)}
        tensors |= {"lm_head.weight": tensor.clone()} if stored in (which, "both") else {}
        models[which] = write_raw(tmp_path / which, tensors, tie_word_embeddings=True)
    changed = weights(open_pair(models["base"], models["trained"]), [ReplaceEmbeddings()])
    assert ("lm_head.weight" in changed) == (stored != "neither")
    for name in changed.keys() - {"model.layers.0.mlp.up_proj.weight"}:
        assert torch.equal(changed[name], embedding["base"]), name


@pytest.mark.parametrize("percent", [0.1, 10, 33, 50, 77.7, 99])
def test_top_and_bottom_add_up_to_the_update(pair: Pair, percent: float) -> None:
    top = updates(pair, [TopComponents(percent, other="trained")])
    bottom = updates(pair, [BottomComponents(round(100 - percent, 1), other="base")])
    for name, shape in pair.shapes.items():
        update = pair.delta(name)
        assert (top[name] + bottom[name] - update).abs().max() <= 4e-16 * update.abs().max()
        if is_matrix(name, shape):
            count = math.ceil(round(percent * min(shape) / 100, 9))
            assert torch.linalg.matrix_rank(top[name]) == count
            expected = torch.linalg.svdvals(update)[:count]
            assert torch.allclose(torch.linalg.svdvals(top[name])[:count], expected)
        else:
            assert torch.equal(top[name], update)
            assert not bottom[name].any()


def test_other_tensors_are_the_bases_if_asked(pair: Pair) -> None:
    for kind in (TopComponents(10, other="base"), BottomComponents(10, other="base")):
        for name, tensor in weights(pair, [kind]).items():
            is_base = torch.equal(tensor, pair.base.read(name))
            assert is_base == (locate(name).kind not in ("attention", "mlp"))


def test_equal_budgets(pair: Pair, other_llama: Path) -> None:
    """Two runs' truncated updates have one norm per matrix, and keep their directions."""
    norms = update_norms(pair.base.directory, other_llama)
    plain, scaled = updates(pair, [TopComponents(10)]), updates(pair, [TopComponents(10, norm_like=str(other_llama))])
    for name, shape in pair.shapes.items():
        if is_matrix(name, shape):
            assert float(scaled[name].norm()) == pytest.approx(norms[name])
            assert torch.allclose(scaled[name] / scaled[name].norm(), plain[name] / plain[name].norm())
        else:
            assert torch.equal(scaled[name], plain[name])


def test_norm_matching_interpolates_norms(pair: Pair, other_llama: Path) -> None:
    norms = update_norms(pair.base.directory, other_llama)
    assert set(norms) == set(pair.names) and len(norms) == len(pair.names)
    for beta in (-0.5, 0.3, 1, 2):
        found = updates(pair, [NormMatch(norms, beta)])
        for name in pair.names:
            early = pair.delta(name)
            expected = early.norm() + beta * (norms[name] - early.norm())
            assert float(found[name].norm()) == pytest.approx(abs(float(expected)))
            assert torch.allclose(found[name] * early.norm(), early * expected)


def test_an_update_of_zeros_stays_one(llama: Path, trained_llama: Path) -> None:
    pair = open_pair(llama, llama)
    final = str(trained_llama)
    for kind in (NormMatch(final), TopComponents(10, norm_like=final), BottomComponents(10), Scale(3)):
        assert_same(weights(pair, [kind]), load_tensors(llama))


def test_composition_is_in_order(pair: Pair, other_llama: Path) -> None:
    norms = update_norms(pair.base.directory, other_llama)
    last_set = updates(pair, [TopComponents(10), NormMatch(norms)])
    first_set = updates(pair, [NormMatch(norms), TopComponents(10)])
    for name, shape in pair.shapes.items():
        if is_matrix(name, shape):
            assert float(last_set[name].norm()) == pytest.approx(norms[name])
            assert float(first_set[name].norm()) < 0.99 * norms[name]
            twice = updates(pair, [TopComponents(50), TopComponents(50)])[name]
            assert torch.linalg.matrix_rank(twice) == math.ceil(min(shape) / 4)
            break
    both = updates(pair, [Window("mlp", 1, 0), Scale(2)])
    for name in pair.names:
        inside = locate(name).kind == "mlp" and locate(name).layer == 1
        assert torch.equal(both[name], 2.0 * inside * pair.delta(name))


def test_experts_of_a_stack_are_matrices_one_by_one(tmp_path: Path) -> None:
    torch.manual_seed(0)
    stack = "model.layers.0.mlp.experts.gate_up_proj"
    tensors = {
        stack: torch.randn(3, 6, 5),
        f"{stack}_bias": torch.randn(3, 5),
        "model.layers.0.linear_attn.conv1d.weight": torch.randn(6, 1, 4),
    }
    base = write_raw(tmp_path / "base", tensors)
    trained = write_raw(tmp_path / "trained", {n: t + torch.randn_like(t) for n, t in tensors.items()})
    pair = open_pair(base, trained)
    top = weights(pair, [TopComponents(40)])
    for expert in range(3):
        update = pair.delta(f"{stack}[{expert}]")
        kept = top[stack][expert].double() - tensors[stack][expert].double()
        left, sigma, right = torch.linalg.svd(update)
        assert torch.allclose(kept, left[:, :2] * sigma[:2] @ right[:2], atol=1e-6)
        assert decompose(update).rank == 5
    for name in (f"{stack}_bias", "model.layers.0.linear_attn.conv1d.weight"):
        assert torch.equal(top[name], pair.trained.read(name))
    norms = update_norms(base, trained)
    assert f"{stack}[2]" in norms and stack not in norms
    assert_same(weights(pair, [NormMatch(norms)]), load_tensors(trained))


def test_integers_are_kept_and_never_scaled(tmp_path: Path) -> None:
    models = []
    for number in range(2):
        weight = torch.full((2, 2), float(number))
        tensors = {"model.layers.0.mlp.up_proj.weight": weight, "position_ids": torch.arange(3)}
        models.append(write_raw(tmp_path / str(number), tensors))
    assert torch.equal(weights(open_pair(*models), [Scale(0.5)])["position_ids"], torch.arange(3))
    changed = write_raw(tmp_path / "2", {**load_tensors(models[1]), "position_ids": torch.arange(3) + 1})
    with pytest.raises(NotImplementedError, match=r"position_ids is torch.int64 and differs"):
        weights(open_pair(models[0], changed), [Scale(0.5)])


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        (Scale, (math.nan,), "alpha: got nan; expected a finite number"),
        (Scale, ("1",), "alpha: got '1'"),
        (Scale, (True,), "alpha: got True"),
        (TopComponents, (0,), "percent: got 0; expected a number above 0 and at most 100"),
        (TopComponents, (100.5,), "percent: got 100.5"),
        (TopComponents, (10, ""), "norm_like: got ''"),
        (TopComponents, (10, None, "zero"), "other: got 'zero'; expected one of base, trained"),
        (BottomComponents, (-1,), "percent: got -1"),
        (BottomComponents, (1, None), "other: got None"),
        (Window, ("norm", 0), "module: got 'norm'; expected one of mlp, attention, both"),
        (Window, ("mlp", -1), "centre: got -1"),
        (Window, ("mlp", 1.5), "centre: got 1.5; expected a whole number"),
        (Window, ("mlp", 0, -1), "half_width: got -1"),
        (NormMatch, (3,), "final: got 3; expected a model directory"),
        (NormMatch, ("x", math.inf), "beta: got inf"),
    ],
)
def test_wrong_fields(kind: Any, arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        kind(*arguments)
    assert message in str(caught.value)


def test_models_with_nothing_to_change(pair: Pair) -> None:
    shapes: dict[str, tuple[int, ...]] = {"model.norm.weight": (4,), "model.layers.0.mlp.up_proj.bias": (4,)}
    with pytest.raises(ConfigurationError, match="got centre 2; expected a layer from 0 to 1"):
        Window("mlp", 2).check(pair.shapes)
    with pytest.raises(ConfigurationError, match="the model has none"):
        Window("mlp", 2).check({"model.norm.weight": (4,)})
    with pytest.raises(ConfigurationError, match="no tensor of module 'attention' in the layers -8 to 8"):
        Window("attention", 0).check(shapes)
    with pytest.raises(ConfigurationError, match="none of the 2 tensors is an embedding"):
        ReplaceEmbeddings().check(shapes)
    for kind in (TopComponents(1), BottomComponents(1)):
        with pytest.raises(ConfigurationError, match="none of the 2 tensors is an attention or MLP matrix"):
            kind.check(shapes)


def test_missing_norms(pair: Pair) -> None:
    with pytest.raises(DataError, match=r"no norm for model\.embed_tokens\.weight"):
        weights(pair, [NormMatch({"lm_head.weight": 1.0})])
