"""Rounding from float64 to the dtype that a model is stored in, and how much it can change."""

import torch
from torch import Tensor

_CHUNK = 2**16  # elements per piece, which fits into a processor's cache
# Of each dtype: integers of its size, stored digits of the significand, and bits of the exponent.
_FORMATS = {
    torch.bfloat16: (torch.int16, 7, 8),
    torch.float16: (torch.int16, 10, 5),
    torch.float32: (torch.int32, 23, 8),
}


def round_to(exact: Tensor, dtype: torch.dtype) -> Tensor:
    """Round float64 numbers once, to the nearest number of a dtype, and ties to even.

    torch rounds twice on the way to bf16 and fp16: first to float32, where a number close to a tie can become the tie,
    which is then rounded to the wrong side. Here the first step rounds to odd instead: of the two float32 numbers
    around the exact one, it takes the one with an odd last bit, which is no tie and lies on the same side of it.

    Args:
        exact: Numbers in float64, of any shape.
        dtype: Dtype to round to: float64, float32, bfloat16 or float16.

    Returns:
        The rounded numbers, of the same shape.
    """
    if dtype not in (torch.bfloat16, torch.float16):
        return exact.to(dtype)
    nearest = exact.float()
    bits = nearest.view(torch.int32)
    is_even = (bits & 1).bitwise_xor_(1)
    towards = exact.abs().sub_(nearest.double().abs_()).sign_()  # 1: the exact number has the larger magnitude
    bits.add_(towards.nan_to_num_(0.0).int().mul_(is_even))
    return nearest.to(dtype)


def half_unit_square(weights: Tensor) -> float:
    """Sum the squares of half a unit in the last place of each number, the most that rounding to it can have changed.

    Args:
        weights: Numbers of any shape and dtype. Those that are of no floating dtype were not rounded, and count 0.
    """
    if weights.dtype not in _FORMATS:
        return 0.0
    integers, digits, exponent_bits = _FORMATS[weights.dtype]
    num_exponents, flat = 1 << exponent_bits, weights.flatten().view(integers)
    counts = torch.zeros(num_exponents, dtype=torch.int64, device=weights.device)
    for part in flat.split(_CHUNK):
        exponents = (part >> digits).bitwise_and_(num_exponents - 1).int()
        counts += torch.bincount(exponents, minlength=num_exponents)
    # Subnormal numbers, of exponent 0, have the unit of exponent 1.
    exponents = torch.arange(num_exponents, dtype=torch.float64, device=weights.device).clamp_(min=1)
    half_units = torch.exp2(exponents - (num_exponents // 2 - 1) - digits - 1)
    return float(torch.dot(counts.double(), half_units.square_()))
