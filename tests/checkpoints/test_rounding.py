"""How much rounding can change: half a unit in the last place, for every number of a format."""

import numpy as np
import pytest
import torch

from effopd.checkpoints.rounding import half_unit_square


@pytest.mark.parametrize(("dtype", "numpy_dtype"), [(torch.float16, np.float16), (torch.float32, np.float32)])
def test_half_units_are_those_of_numpy(dtype: torch.dtype, numpy_dtype: type[np.floating]) -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(1000, generator=generator) * 10.0 ** torch.randint(-8, 4, (1000,), generator=generator)
    weights = torch.cat([values, torch.tensor([0.0, -0.0, 1.0, -2.0, 1e-8, 6e-8])]).to(dtype)
    spacing = np.spacing(np.abs(weights.numpy().astype(numpy_dtype))).astype(np.float64)
    assert half_unit_square(weights) == pytest.approx(float((spacing**2).sum()) / 4, rel=1e-12)


@pytest.mark.parametrize(("weight", "unit"), [(1.0, 2.0**-7), (-3.5, 2.0**-6), (0.02, 2.0**-13), (0.0, 2.0**-133)])
def test_half_units_of_bfloat16(weight: float, unit: float) -> None:
    assert half_unit_square(torch.full((3, 2), weight).bfloat16()) == pytest.approx(6 * unit**2 / 4, rel=1e-12, abs=0)
    columns = torch.full((3, 4), weight).bfloat16()[:, ::2]
    assert half_unit_square(columns) == pytest.approx(6 * unit**2 / 4, rel=1e-12, abs=0)


def test_integers_are_not_rounded() -> None:
    assert half_unit_square(torch.arange(5)) == 0
