"""Windows of layers."""

from pathlib import Path
from typing import Any

import pytest
import torch

from effopd.checkpoints import Pair, open_pair
from effopd.errors import ConfigurationError
from effopd.interventions import Window
from effopd.parameters import locate
from interventions.changed import weights


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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("norm", 0), "module: got 'norm', expected one of mlp, attention, both"),
        (("mlp", -1), "centre: got -1"),
        (("mlp", 1.5), "centre: got 1.5, expected a whole number"),
        (("mlp", 0, -1), "half_width: got -1"),
    ],
)
def test_wrong_fields(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Window(*arguments)
    assert message in str(caught.value)


def test_models_with_nothing_to_change(pair: Pair) -> None:
    with pytest.raises(ConfigurationError, match="got centre 2; expected a layer from 0 to 1"):
        Window("mlp", 2).check(pair.shapes)
    with pytest.raises(ConfigurationError, match="the model has none"):
        Window("mlp", 2).check({"model.norm.weight": (4,)})
    with pytest.raises(ConfigurationError, match="no tensor of module 'attention' in the layers -8 to 8"):
        Window("attention", 0).check({"model.norm.weight": (4,), "model.layers.0.mlp.up_proj.bias": (4,)})
