"""The weights and updates that interventions make of a pair."""

from collections.abc import Sequence

import torch

from effopd.checkpoints import Pair
from effopd.interventions import Intervention
from effopd.interventions.pair_source import PairSource
from effopd.interventions.update import new_tensor, new_updates


def weights(pair: Pair, interventions: Sequence[Intervention]) -> dict[str, torch.Tensor]:
    source = PairSource(pair)
    return {
        name: new_tensor(name, new_updates(name, shape, interventions, source), source.dtype(name)).tensor
        for name, shape in pair.shapes.items()
    }


def updates(pair: Pair, interventions: Sequence[Intervention]) -> dict[str, torch.Tensor]:
    """The new updates before they are rounded."""
    source, found = PairSource(pair), {}
    for name, shape in pair.shapes.items():
        for update in new_updates(name, shape, interventions, source):
            found[update.weight.name] = update.coefficient * update.tensor
    return found


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """Compare dtypes and bits."""
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name].view(torch.int16), tensor.view(torch.int16)), name
