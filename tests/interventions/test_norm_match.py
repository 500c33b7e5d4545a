"""The norm scaling of an early checkpoint."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from effopd.checkpoints import Pair
from effopd.errors import ConfigurationError, DataError
from effopd.interventions import NormMatch, norm_match_factor, update_norms
from interventions.changed import updates, weights


@pytest.mark.parametrize(
    ("early", "final", "beta", "expected"),
    [
        (0.3, 0.3, 1, 1),
        (0.3, 0.1 + 0.2, 1, 1),
        (0.3, 7, 0, 1),
        (2, 5, 1, 2.5),
        (2, 5, 0.5, 1.75),
        (2, 0, 1, 0),
        (0, 5, 1, 1),
    ],
)
def test_factor(early: float, final: float, beta: float, expected: float) -> None:
    assert norm_match_factor(early, final, beta) == expected


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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((3,), "final: got 3, expected a model directory"),
        (("x", math.inf), "beta: got inf"),
    ],
)
def test_wrong_fields(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        NormMatch(*arguments)
    assert message in str(caught.value)


def test_missing_norms(pair: Pair) -> None:
    with pytest.raises(DataError, match=r"no norm for model\.embed_tokens\.weight"):
        weights(pair, [NormMatch({"lm_head.weight": 1.0})])
