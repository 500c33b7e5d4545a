"""The weights and updates that interventions make of a pair."""

from collections.abc import Sequence

import torch

from effopd.checkpoints import Pair
from effopd.interventions import Intervention
from effopd.interventions.apply import PairSource
from effopd.interventions.update import Update, Weight, new_tensor, weights_in


def weights(pair: Pair, interventions: Sequence[Intervention]) -> dict[str, torch.Tensor]:
    source = PairSource(pair)
    return {name: new_tensor(name, shape, interventions, source).tensor for name, shape in pair.shapes.items()}


def updates(pair: Pair, interventions: Sequence[Intervention]) -> dict[str, torch.Tensor]:
    """The new updates before they are rounded."""
    source, found = PairSource(pair), {}
    for name, shape in pair.shapes.items():
        for part, part_shape in weights_in(name, shape).items():
            update = Update(Weight(part, part_shape, source))
            for intervention in interventions:
                update = intervention.apply(update)
            found[part] = update.coefficient * update.tensor
    return found


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """Compare dtypes and bits."""
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name].view(torch.int16), tensor.view(torch.int16)), name
