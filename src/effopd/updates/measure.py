"""From weights to records: what is measured of one parameter of one checkpoint, and of one over several checkpoints."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from effopd.checkpoints import open_pair
from effopd.checkpoints.pair import Difference
from effopd.errors import DataError
from effopd.parameters import locate
from effopd.updates.blocks import BLOCK_BYTES, UpdateBlocks, row_windows
from effopd.updates.gram import Precision, gram_eigen
from effopd.updates.records import UpdateRecord
from effopd.updates.spectrum import Spectrum, spectrum
from effopd.updates.state_dicts import StateDicts
from effopd.updates.subspace import (
    SingularVectors,
    Trajectory,
    singular_vectors,
    subspace_alignment,
    trajectory,
    vector_alignment,
)

NUM_VECTORS = 20
_MIN_CHECKPOINTS_FOR_EVR = 4  # fewer points always lie in a plane


class UpdateSource(Protocol):
    """A base and a trained model, of which updates are read: `effopd.checkpoints.Pair`, or `StateDicts`."""

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shapes of all tensors, by name."""

    @property
    def matrices(self) -> Mapping[str, tuple[int, int]]:
        """Rows and columns of all matrices, by name. Every expert of a stack is a matrix of its own."""

    def delta(self, name: str, *window: slice) -> Tensor:
        """Read the update of a tensor, or a window of it, in float64."""

    def difference(self, name: str, *window: slice) -> Difference:
        """Read the same as `delta`, together with sums about the base and the trained tensor there."""

    def dtype(self, name: str) -> torch.dtype:
        """Tell the dtype of the trained tensor."""


@dataclass(frozen=True, eq=False)
class Measurement:
    """What was measured of one parameter.

    Attributes:
        record: The record.
        spectrum: Spectrum of the update; None for a parameter that is no matrix.
        vectors: Leading singular vectors of the update; None for a parameter that is no matrix.
    """

    record: UpdateRecord
    spectrum: Spectrum | None
    vectors: SingularVectors | None


def parameters(source: UpdateSource) -> dict[str, tuple[int, int]]:
    """List everything that gets a record, with its rows and columns.

    Matrices are listed as they are, and other tensors as if they were flattened to [first dimension, all others].
    """
    matrices = source.matrices
    stacks = {name.rpartition("[")[0] for name in matrices if name.endswith("]")}
    found: dict[str, tuple[int, int]] = {}
    for name, shape in source.shapes.items():
        if name in stacks:
            found |= {expert: size for expert, size in matrices.items() if expert.rpartition("[")[0] == name}
        else:
            found[name] = matrices.get(name) or (shape[0] if shape else 1, math.prod(shape[1:]))
    return {name: size for name, size in found.items() if math.prod(size)}


def update_blocks(
    source: UpdateSource, name: str, size: tuple[int, int], device: str = "cpu"
) -> tuple[UpdateBlocks, float, float]:
    """Make the update of one parameter readable in blocks.

    Returns:
        The blocks, the Frobenius norm of the base's parameter, and the rounding bound of `UpdateRecord`.
    """
    squares: dict[int, list[float]] = {}

    def read(start: int, stop: int) -> Tensor:
        rows = slice(start, stop)
        window = (rows,) if size[0] >= size[1] else (slice(None), rows)
        update, *squares[start] = source.difference(name, *(window if name in source.matrices else ()))
        return update.reshape(size) if name not in source.matrices else update.to(device)

    blocks = UpdateBlocks(size, read, BLOCK_BYTES if name in source.matrices else 8 * math.prod(size))
    base_norm, rounding_bound = (math.sqrt(sum(of_blocks)) for of_blocks in zip(*squares.values(), strict=True))
    return blocks, base_norm, rounding_bound


def measure_parameter(
    source: UpdateSource,
    name: str,
    size: tuple[int, int],
    *,
    run: str = "",
    checkpoint: int = 0,
    step: int | None = None,
    precision: Precision = "float64",
    device: str = "cpu",
) -> Measurement:
    """Measure one parameter of one checkpoint.

    Args:
        source: Base and trained model.
        name: Name of the parameter, one of `parameters(source)`.
        size: Rows and columns of the parameter, as `parameters` gives them.
        run: Name of the run, for the record.
        checkpoint: Index of the checkpoint in the run, for the record.
        step: Number of optimizer steps taken, for the record.
        precision: Precision of the spectrum (see `effopd.updates.spectrum`).
        device: Device on which matrices are decomposed.
    """
    blocks, base_norm, rounding_bound = update_blocks(source, name, size, device)
    place = locate(name)
    found: Spectrum | None = None
    vectors: SingularVectors | None = None
    if name in source.matrices:
        is_zero = not blocks.num_nonzero  # as those of frozen matrices are, and there is nothing to decompose
        eigen = None if is_zero else gram_eigen(blocks, vectors=True, k=NUM_VECTORS, dtype=precision)
        found, vectors = spectrum(blocks, eigen=eigen), singular_vectors(blocks, NUM_VECTORS, eigen=eigen)
    norm = (
        found.frobenius_norm
        if found
        else blocks.scale * math.hypot(*(float(torch.linalg.vector_norm(block)) for block in blocks))
    )
    record = UpdateRecord(
        run=run,
        checkpoint=checkpoint,
        step=step,
        parameter=name,
        layer=place.layer,
        module=place.module,
        kind=place.kind,
        rows=size[0],
        cols=size[1],
        frobenius_norm=norm,
        base_norm=base_norm,
        changed_fraction=blocks.num_nonzero / math.prod(size),
        dtype=str(source.dtype(name)).removeprefix("torch."),
        rounding_bound=rounding_bound,
    )
    if found:
        shared = ("spectral_norm", "spectral_to_frobenius", "effective_rank", "top1pct_norm_ratio", "rank")
        values = {key: getattr(found, key) for key in (*shared, "relative_error", "route")}
        record = replace(record, **values)
    return Measurement(record, found, vectors)


def displacement(
    sources: Sequence[UpdateSource | None], name: str, size: tuple[int, int]
) -> tuple[float, float | None]:
    """Measure the latest displacement of a parameter.

    Args:
        sources: Two or three checkpoints in the order of training, each with the same base; None stands for the base.
        name: Name of the parameter.
        size: Rows and columns of the parameter.

    Returns:
        The norm of the displacement between the last two checkpoints, and its cosine with the displacement before it.
        The cosine is None for two checkpoints, and if one of the displacements is zero.
    """
    dot = latest_square = earlier_square = 0.0
    for window in _windows(sources[-1], name, size):
        updates = [source.delta(name, *window) if source else None for source in sources]
        latest = _minus(updates[-1], updates[-2])
        latest_square += float(latest.square().sum())
        if len(updates) == 3:
            earlier = _minus(updates[1], updates[0])
            dot += float((latest * earlier).sum())
            earlier_square += float(earlier.square().sum())
    norms = math.sqrt(latest_square) * math.sqrt(earlier_square)
    return math.sqrt(latest_square), min(max(dot / norms, -1.0), 1.0) if norms else None


def _windows(source: UpdateSource | None, name: str, size: tuple[int, int]) -> Iterator[tuple[slice, ...]]:
    if source is None or name not in source.matrices:
        yield ()
        return
    yield from ((window,) for window in row_windows(size))


def _minus(one: Tensor | None, other: Tensor | None) -> Tensor:
    assert one is not None
    return one if other is None else one - other


@dataclass(frozen=True, eq=False)
class Alignment:
    """How one checkpoint of a matrix aligns with the last one, in the terms of `UpdateRecord`."""

    vector_alignment: float | None
    first_vector_cosine: float | None
    subspace_alignment: float | None
    chance_alignment: float | None
    num_vectors: int | None


def alignments(lefts: Sequence[Tensor]) -> list[Alignment]:
    """Compare each checkpoint of a matrix with the last one.

    Args:
        lefts: Leading left singular vectors of the matrix at each checkpoint, [rows, up to 20], in the order of
            training. A tensor has no columns if the update is zero.
    """
    return [_align(left, lefts[-1]) for left in lefts]


def _align(left: Tensor, last: Tensor) -> Alignment:
    k = min(left.shape[1], last.shape[1])
    if k == 0:
        return Alignment(None, None, None, None, None)
    vectors, angles = vector_alignment(left, last), subspace_alignment(left[:, :k], last[:, :k])
    rms = min(float(angles.square().mean().sqrt()), 1.0)
    return Alignment(float(vectors.mean()), float(vectors[0]), rms, math.sqrt(k / left.shape[0]), k)


def first_vector_trajectory(lefts: Sequence[Tensor]) -> tuple[Trajectory, float | None] | None:
    """Follow the first left singular vector u_1 over the checkpoints.

    Args:
        lefts: Leading left singular vectors of the matrix at each checkpoint, as `alignments` takes them.

    Returns:
        The trajectory and its EVR_{0:2}, which is None for fewer than four checkpoints, and if u_1 does not move. None
        altogether if one of the updates is zero.
    """
    if any(left.shape[1] == 0 for left in lefts):
        return None
    path = trajectory(torch.stack([left[:, 0] for left in lefts]))
    return path, path.explained_variance_ratio if len(lefts) >= _MIN_CHECKPOINTS_FOR_EVR else None


def compare(
    base: str | Path | Mapping[str, Tensor],
    trained: str | Path | Mapping[str, Tensor],
    *,
    ignore: Sequence[str] = (),
    precision: Precision = "float64",
    device: str = "cpu",
) -> list[UpdateRecord]:
    """Measure what training did to every parameter, in the records that `effopd analyze` writes.

    Args:
        base: Directory or hub name of the base, or a state dict.
        trained: Directory or hub name of the trained model, or a LoRA adapter of the base; or a state dict if the base
            is one.
        ignore: Regular expressions of names to leave out, for models that are read from directories.
        precision: Precision of the spectra (see `effopd.updates.spectrum`).
        device: Device on which matrices are decomposed.

    Returns:
        A record for each parameter, in the order of the layers. Every expert of a stack has a record of its own.

    Raises:
        DataError: A model cannot be read, or the two models do not match.
    """
    source: UpdateSource
    if isinstance(base, Mapping) and isinstance(trained, Mapping):
        source = StateDicts(base, trained)
    elif isinstance(base, Mapping) or isinstance(trained, Mapping):
        raise DataError("Got a state dict and a path; expected two of either.")
    else:
        source = open_pair(base, trained, ignore)
    sizes = parameters(source)
    return [measure_parameter(source, name, sizes[name], precision=precision, device=device).record for name in sizes]
