"""Rounding from float64 to the dtype that a model is stored in."""

import torch
from torch import Tensor


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
