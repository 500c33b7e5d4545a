"""Scaling the update."""

import math
from typing import Any

import pytest
import torch

from effopd.checkpoints import Pair
from effopd.errors import ConfigurationError
from effopd.interventions import Scale
from interventions.changed import updates, weights


def test_scale_multiplies_every_update(pair: Pair) -> None:
    for name, update in updates(pair, [Scale(-1.5)]).items():
        assert torch.equal(update, -1.5 * pair.delta(name))
    for name, tensor in weights(pair, [Scale(0.25)]).items():
        exact = pair.base.read(name).double() + 0.25 * pair.delta(name)
        assert torch.allclose(tensor.double(), exact, rtol=2**-8, atol=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((math.nan,), "alpha: got nan, expected a finite number"),
        (("1",), "alpha: got '1'"),
        ((True,), "alpha: got True"),
    ],
)
def test_wrong_fields(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Scale(*arguments)
    assert message in str(caught.value)
