"""How each checkpoint of a matrix aligns with the last one, rank by rank (arXiv 2605.11739, subspace alignment)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from effopd.files import replaced
from effopd.updates.measure import NUM_VECTORS
from effopd.updates.subspace import nested_alignment, vector_alignment

_KEYS = {"run": pa.string(), "checkpoint": pa.int64(), "step": pa.int64(), "parameter": pa.string()}


class AlignmentsByRank:
    """The table `alignments.parquet`, which grows matrix by matrix.

    It has a row for each checkpoint of each matrix: `vector_k` is `|cos(u_k(t), u_k(T))|`, and `subspace_k` is the root
    mean square cosine of the principal angles between the spans of the first k vectors, for k = 1 .. 20. Both are null
    for ranks that one of the two updates does not have.
    """

    def __init__(self) -> None:
        self._keys: list[list[Any]] = [[] for _ in _KEYS]
        self._values: list[npt.NDArray[np.float32]] = []

    def add(self, rows: Sequence[Mapping[str, Any]], lefts: Sequence[Tensor]) -> None:
        """Compare each checkpoint of one matrix with the last one.

        Args:
            rows: Records of the matrix at each checkpoint, in the order of training.
            lefts: Its leading left singular vectors there, [rows, up to 20].
        """
        for row, left in zip(rows, lefts, strict=True):
            for values, name in zip(self._keys, _KEYS, strict=True):
                values.append(row[name])
            found = np.full((2, NUM_VECTORS), np.nan, dtype=np.float32)
            ranks = min(left.shape[1], lefts[-1].shape[1], NUM_VECTORS)
            found[0, :ranks] = vector_alignment(left, lefts[-1])[:ranks].cpu()
            found[1, :ranks] = nested_alignment(left, lefts[-1])[:ranks].cpu()
            self._values.append(found.ravel())

    def write(self, path: Path) -> None:
        """Write the table as a Parquet file, which is never there in part."""
        arrays = [pa.array(values, kind) for values, kind in zip(self._keys, _KEYS.values(), strict=True)]
        names = [f"{what}_{rank}" for what in ("vector", "subspace") for rank in range(1, NUM_VECTORS + 1)]
        columns = np.array(self._values, dtype=np.float32).reshape(-1, len(names)).T
        arrays += [pa.array(column, from_pandas=True) for column in columns]
        with replaced(path) as temporary:
            pq.write_table(pa.table(arrays, names=[*_KEYS, *names]), temporary)
