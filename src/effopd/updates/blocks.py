"""An update matrix in blocks of its long side, so that a large matrix is never held whole.

Shape suffixes: L the long side of dW, S the short one, C rows of a block, K columns.
"""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from effopd.errors import DataError

BLOCK_BYTES = 128 * 2**20
_CHUNK = 2**16  # elements
_MAX_EXPONENT = 60  # of two, so that squares and their sums stay far from the limits of float32


def row_windows(size: tuple[int, int]) -> Iterator[slice]:
    """Yield slices of a matrix's rows, so short that four of them in float64 take the space of a block."""
    rows = max(1, BLOCK_BYTES // (8 * size[1] * 4))
    yield from (slice(start, min(start + rows, size[0])) for start in range(0, size[0], rows))


class UpdateBlocks:
    """dW [m, n] in blocks, turned so that its long side is the first, and scaled if that is needed.

    A matrix that fits in one block is read once and kept. A larger one is read anew in every pass over its blocks.

    Attributes:
        shape: Shape (m, n) of dW.
        scale: Power of two by which the blocks are divided, so that squares neither overflow nor underflow. It is 1
            unless the largest absolute value lies outside 2^-60 ... 2^60.
        num_nonzero: Number of entries that are not zero.
    """

    def __init__(self, shape: tuple[int, int], read: Callable[[int, int], Tensor], block_bytes: int = BLOCK_BYTES):
        """Read the update once, to find its scale.

        Args:
            shape: Shape (m, n) of dW.
            read: Function that is called with (start, stop) and returns those rows of dW if m >= n, and those columns
                otherwise, in float32 or float64. The result is written to, so it has to be a copy. The function may be
                called several times for the same part.
            block_bytes: Size of a block in float64, in bytes.

        Raises:
            DataError: An entry is NaN or infinite.
        """
        self.shape, self._read = shape, read
        self._rows = max(1, min(max(shape), block_bytes // (8 * min(shape))))
        self._kept: Tensor | None = None
        largest, num_nonzero, num_bad = 0.0, 0, 0
        for block in self._fresh_blocks():
            for part in block.flatten().split(_CHUNK):  # such small parts stay in the cache
                low, high = (float(value) for value in torch.aminmax(part))
                if not math.isfinite(low) or not math.isfinite(high):
                    num_bad += int((~torch.isfinite(part)).sum())
                largest = max(largest, -low, high)
                num_nonzero += int(torch.count_nonzero(part))
            if self._rows == max(shape):
                self._kept = block
        if num_bad:
            raise DataError(
                f"Got {num_bad} entries of {math.prod(shape)} in an update that are NaN or infinite; expected finite "
                "numbers. Look for the checkpoint at which training diverged."
            )
        self.num_nonzero = num_nonzero
        exponent = math.frexp(largest)[1]
        self.scale = math.ldexp(1.0, min(exponent, 1023)) if largest and abs(exponent) > _MAX_EXPONENT else 1.0
        if self._kept is not None and self.scale != 1:
            self._kept.div_(self.scale)

    @classmethod
    def of(cls, update: "Tensor | UpdateBlocks") -> "UpdateBlocks":
        """Make one block of a tensor, which is copied. Blocks are returned as they are.

        Raises:
            DataError: `update` is not a matrix of finite float32 or float64 numbers.
        """
        if isinstance(update, UpdateBlocks):
            return update
        if update.ndim != 2 or update.numel() == 0 or update.dtype not in (torch.float32, torch.float64):
            raise DataError(
                f"Got an update of shape {tuple(update.shape)} and dtype {update.dtype}; expected a matrix that is not "
                "empty, in float32 or float64. Subtract the stored weights in float64: "
                "trained.double() - base.double()."
            )
        matrix = update.detach()
        return cls((matrix.shape[0], matrix.shape[1]), lambda start, stop: matrix.clone(), 8 * matrix.numel())

    @property
    def is_tall(self) -> bool:
        """Whether m >= n. If so, the blocks are rows of dW, and otherwise columns."""
        return self.shape[0] >= self.shape[1]

    def __iter__(self) -> Iterator[Tensor]:
        """Yield the blocks of dW / scale in order, float64 [C, S]. They must not be written to."""
        blocks = self._fresh_blocks() if self._kept is None else [self._kept]
        for block in blocks:
            if self._kept is None and self.scale != 1:
                block.div_(self.scale)
            yield block if self.is_tall else block.mT

    def __matmul__(self, columns_SK: Tensor) -> Tensor:
        """Multiply dW / scale, turned as the blocks are, with columns [S, K]; the product is [L, K]."""
        return torch.cat([block_CS @ columns_SK for block_CS in self])

    def _fresh_blocks(self) -> Iterator[Tensor]:
        """Read the blocks of dW, without scaling or turning them, in float64."""
        for start in range(0, max(self.shape), self._rows):
            yield self._read(start, min(start + self._rows, max(self.shape))).to(torch.float64)
