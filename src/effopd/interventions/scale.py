"""The weights of a scaled update, `W_base + alpha * dW` (arXiv 2605.11739, scaling of the update).

Every intervention ends here: this is where float64 becomes the dtype that a model is stored in.
"""

import math

import torch
from torch import Tensor

from effopd.errors import DataError

_CHUNK = 1 << 16  # elements: 512 kB in float64, which stay in a cache
# Which float32 numbers can be halfway between two of the narrower dtype: (bits) & mask == value.
_HALFWAY = {torch.bfloat16: (0xFFFF, 0x8000), torch.float16: (0xFFF, 0)}


def add_scaled(base: Tensor, update: Tensor, alpha: float, dtype: torch.dtype) -> Tensor:
    """`W_base + alpha * dW`, computed in float64 and rounded once, to the nearest number of `dtype`.

    With alpha = 1 it gives the trained weights back, unless a weight and its base differ by a factor above 2^29 (of
    float32 weights) or 2^45 (of bf16): their difference is not a float64 number then.

    Args:
        base: W_base as stored, of any shape and floating dtype.
        update: dW, float64, of the same shape and on the same device.
        alpha: Any finite number.
        dtype: float64, float32, bfloat16 or float16.

    Returns:
        A new tensor. Beside it, only small pieces are held in float64.

    Raises:
        DataError: A weight is too large for `dtype`, or not a number.
    """
    result = torch.empty(base.shape, dtype=dtype, device=base.device)
    flat_base, flat_update, flat_result = base.reshape(-1), update.reshape(-1), result.view(-1)
    for start in range(0, result.numel(), _CHUNK):
        chunk = slice(start, start + _CHUNK)
        exact = torch.add(flat_base[chunk].double(), flat_update[chunk], alpha=alpha)
        flat_result[chunk] = round_to(exact, dtype)
        if not all(math.isfinite(bound) for bound in torch.aminmax(flat_result[chunk])):
            raise DataError(
                f"alpha = {alpha:g} gives weights up to {float(exact.abs().max()):g}; expected finite ones of at most "
                f"{torch.finfo(dtype).max:g}, the largest number of {dtype}. Take a smaller scale."
            )
    return result


def round_to(exact: Tensor, dtype: torch.dtype) -> Tensor:
    """Round float64 numbers once, to nearest, ties to even.

    torch goes through float32 on the way to bf16 and fp16, so that what is just beside a tie ends up as a tie.

    Args:
        exact: float64, one dimension.
        dtype: float64, float32, bfloat16 or float16.
    """
    if dtype not in _HALFWAY:
        return exact.to(dtype)
    single = exact.float()
    bits = single.view(torch.int32)
    mask, value = _HALFWAY[dtype]
    ties = torch.nonzero((bits & mask) == value).squeeze(1)
    if len(ties):
        # Such a float32 number is even. Its odd neighbour towards the exact number is no tie.
        at_tie = single[ties]
        towards = torch.sign(exact[ties] - at_tie.double()) * torch.sign(at_tie)
        bits[ties] += towards.nan_to_num(0.0).to(torch.int32)
    return single.to(dtype)
