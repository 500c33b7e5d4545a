"""`W_base + alpha * dW`, computed in float64 and rounded once: how every changed weight is made.

The source of the formula is arXiv 2605.11739 (scaling of the update).
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from effopd.checkpoints.rounding import round_to
from effopd.errors import DataError

_CHUNK = 1 << 16  # elements per piece: 512 kB in float64, which fits into a processor's cache


def add_scaled(base: Tensor, update: Tensor, alpha: float, dtype: torch.dtype) -> Tensor:
    """Compute `W_base + alpha * dW` in float64 and round it once, to the nearest number of `dtype`.

    With alpha = 1 the result is the trained weights, unless a weight and its base differ by a factor above 2^29 (for
    float32 weights) or 2^45 (for bf16). Float64 cannot represent the difference of two such numbers.

    Args:
        base: W_base as stored, of any shape and floating dtype.
        update: dW in float64, of the same shape and on the same device.
        alpha: Any finite number.
        dtype: float64, float32, bfloat16 or float16.

    Returns:
        A new tensor. While it is computed, only small pieces are held in float64.

    Raises:
        DataError: A new weight is too large for `dtype`, or is not a number.
    """
    return _in_pieces(base, update, alpha, dtype, lambda base, update: update)


def scale_towards(base: Tensor, trained: Tensor, alpha: float, dtype: torch.dtype) -> Tensor:
    """Compute the same bits as `add_scaled` for dW = W - W_base, without holding dW as a whole.

    For large tensors this is several times faster than to make dW first.

    Args:
        base: W_base as stored, of any shape and floating dtype.
        trained: W as stored, of the same shape and on the same device.
        alpha: Any finite number.
        dtype: float64, float32, bfloat16 or float16.

    Raises:
        DataError: A new weight is too large for `dtype`, or is not a number.
    """
    return _in_pieces(base, trained, alpha, dtype, lambda base, trained: trained.double().sub_(base))


def _in_pieces(
    base: Tensor, other: Tensor, alpha: float, dtype: torch.dtype, update: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    result = torch.empty(base.shape, dtype=dtype, device=base.device)
    flat_base, flat_other, flat_result = base.reshape(-1), other.reshape(-1), result.view(-1)
    for start in range(0, result.numel(), _CHUNK):
        chunk = slice(start, start + _CHUNK)
        base_piece = flat_base[chunk].double()
        exact = torch.add(base_piece, update(base_piece, flat_other[chunk]), alpha=alpha)
        flat_result[chunk] = round_to(exact, dtype)
        if not all(math.isfinite(bound) for bound in torch.aminmax(flat_result[chunk])):
            raise DataError(
                f"alpha = {alpha:g} gives weights up to {float(exact.abs().max()):g}; expected finite ones of at most "
                f"{torch.finfo(dtype).max:g}, the largest number of {dtype}. Take a smaller scale."
            )
    return result
