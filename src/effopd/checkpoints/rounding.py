"""Where float64 becomes the dtype that a model is stored in."""

import torch
from torch import Tensor

# Which float32 numbers can be halfway between two of the narrower dtype: (bits) & mask == value.
_HALFWAY = {torch.bfloat16: (0xFFFF, 0x8000), torch.float16: (0xFFF, 0)}


def round_to(exact: Tensor, dtype: torch.dtype) -> Tensor:
    """Round float64 numbers once, to nearest, ties to even.

    torch goes through float32 on the way to bf16 and fp16, so that what is just beside a tie ends up as a tie.

    Args:
        exact: float64, of any shape.
        dtype: float64, float32, bfloat16 or float16.
    """
    if dtype not in _HALFWAY:
        return exact.to(dtype)
    single = exact.float()
    bits = single.view(torch.int32)
    mask, value = _HALFWAY[dtype]
    ties = torch.nonzero((bits & mask) == value, as_tuple=True)
    if len(ties[0]):
        # Such a float32 number is even. Its odd neighbour towards the exact number is no tie.
        at_tie = single[ties]
        towards = torch.sign(exact[ties] - at_tie.double()) * torch.sign(at_tie)
        bits[ties] += towards.nan_to_num(0.0).to(torch.int32)
    return single.to(dtype)
