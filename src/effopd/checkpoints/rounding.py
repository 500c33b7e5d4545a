"""Where float64 becomes the dtype that a model is stored in."""

import torch
from torch import Tensor


def round_to(exact: Tensor, dtype: torch.dtype) -> Tensor:
    """Round float64 numbers once, to nearest, ties to even.

    torch goes through float32 on the way to bf16 and fp16, so that what is just beside a tie ends up as a tie. Here the
    float32 number on the way is, of the two around the exact one, the odd one, which is no tie and lies on its side.

    Args:
        exact: float64, of any shape.
        dtype: float64, float32, bfloat16 or float16.
    """
    if dtype not in (torch.bfloat16, torch.float16):
        return exact.to(dtype)
    nearest = exact.float()
    bits = nearest.view(torch.int32)
    is_even = (bits & 1).bitwise_xor_(1)
    towards = exact.abs().sub_(nearest.double().abs_()).sign_()  # 1: the exact one is larger in magnitude
    bits.add_(towards.nan_to_num_(0.0).int().mul_(is_even))
    return nearest.to(dtype)
