"""Weights of a scaled update are the exact ones, rounded once."""

import math

import pytest
import torch

from effopd.checkpoints.rounding import round_to
from effopd.errors import DataError
from effopd.interventions import add_scaled
from effopd.interventions.scaled_sum import scale_towards

DTYPES = [torch.bfloat16, torch.float16, torch.float32]


def random_weights(dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    """Over many magnitudes, zeros of both signs among them."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(4000, generator=generator, dtype=torch.float64)
    values *= 10.0 ** torch.randint(-4, 3, (4000,), generator=generator)
    values[:2] = torch.tensor([0.0, -0.0])
    return values.to(dtype).reshape(40, 100)


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_gives_the_trained_weights_and_zero_the_base(dtype: torch.dtype) -> None:
    base, trained = random_weights(dtype), random_weights(dtype, seed=1)
    update = trained.double() - base.double()
    assert torch.equal(add_scaled(base, update, 1.0, dtype), trained)
    assert torch.equal(add_scaled(base, update, 0.0, dtype), base)


def test_one_is_off_only_where_the_update_is_no_float64_number() -> None:
    base, trained = torch.tensor([1.0]), torch.tensor([1e-12])
    result = add_scaled(base, trained.double() - base.double(), 1.0, torch.float32)
    assert result != trained  # a factor of 2^40 apart
    assert abs(result - trained) < 1e-16


@pytest.mark.parametrize("dtype", DTYPES)
def test_rounding_is_to_the_nearest_once(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    small = 2.0 ** torch.randint(-30, 4, (20_000,), generator=generator)
    stored = (torch.randn(20_000, generator=generator) * small).to(dtype)
    above = torch.nextafter(stored, torch.full_like(stored, math.inf))
    halfway = (stored.double() + above.double()) / 2
    assert torch.equal(round_to(stored.double(), dtype), stored)
    nudge = halfway.abs() * 2.0**-45  # lost in float32, where both would end up at the tie
    assert torch.equal(round_to(halfway + nudge, dtype), above)
    assert torch.equal(round_to(halfway - nudge, dtype), stored)
    ties = round_to(halfway, dtype)
    bits = ties.view(torch.int32 if dtype == torch.float32 else torch.int16)
    assert not (bits & 1).any()
    special = torch.tensor([math.inf, -math.inf, math.nan, 0.0, -0.0, 1e300], dtype=torch.float64)
    assert torch.equal(round_to(special, dtype).nan_to_num(7.0), special.to(dtype).nan_to_num(7.0))


def test_linear_in_the_scale() -> None:
    base, update = random_weights(torch.float64), random_weights(torch.float64, seed=1)
    for alpha in (-0.5, 0.25, 3.0):
        result = add_scaled(base, update, alpha, torch.float64)
        assert torch.allclose(result, base + alpha * update, rtol=1e-15, atol=1e-12)


def test_pieces_of_large_tensors_and_odd_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("effopd.interventions.scaled_sum._CHUNK", 7)
    base, update = random_weights(torch.float32), random_weights(torch.float64, seed=1)
    whole = (base.double() + 0.3 * update).float()
    assert torch.allclose(add_scaled(base, update, 0.3, torch.float32), whole)
    assert torch.allclose(add_scaled(base.T, update.T, 0.3, torch.float32), whole.T)
    assert add_scaled(torch.tensor(2.0), torch.tensor(1.0).double(), 2.0, torch.float32) == 4
    assert add_scaled(torch.ones(0), torch.ones(0).double(), 2.0, torch.float32).shape == (0,)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_update_may_be_made_piece_by_piece(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("effopd.interventions.scaled_sum._CHUNK", 7)
    base, trained = random_weights(torch.float32), random_weights(dtype, seed=1)
    for alpha in (-0.5, 0.3, 1.0):
        expected = add_scaled(base, trained.double() - base.double(), alpha, dtype)
        assert torch.equal(scale_towards(base, trained, alpha, dtype), expected)


def test_too_large_for_the_dtype() -> None:
    with pytest.raises(DataError, match=r"at most 65504.*smaller scale"):
        add_scaled(torch.ones(3, dtype=torch.float16), torch.ones(3).double(), 1e5, torch.float16)
