"""The weights that an extrapolation needs to remember, and the arithmetic on them.

There are two copies of the selected parameters, sharded exactly as the model is:

    anchor    the parameters that the previous trigger left; at first, the initial ones
    current   during a trigger, W_t; between triggers, the anchor before `anchor`

Every candidate is computed from the anchor and W_t in one pass, and never from another candidate, so that accepting,
rejecting and resuming are exact to the bit.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

from effopd.errors import CheckpointError, ConfigurationError
from effopd.extrapolation.parts import Part, load_parts, part_of, save_parts
from effopd.extrapolation.shards import all_reduce, local_part, num_processes, num_replicas
from effopd.parameters import by_clean_name, locate


@dataclass(frozen=True)
class Move:
    """What delta amounts to in one parameter, over all its shards.

    Attributes:
        square: Squared Frobenius norm of delta.
        numel: Number of elements.
        cosine_to_previous: Cosine of delta to the anchor's own last move; None if one of the two is zero or not known.
    """

    square: float
    numel: int
    cosine_to_previous: float | None


@dataclass(frozen=True)
class Displacement:
    """What `delta = W_t - anchor` amounts to over the selected parameters of the whole, unsharded model.

    Attributes:
        norms: Frobenius norm of delta by module kind, and `total`.
        cosine_to_previous: Cosine of delta to the anchor's own last move; None at the first trigger.
        changed_fraction: Share of elements that differ from the anchor, in [0, 1].
        largest: Largest absolute values in W_t and in delta, by dtype of the parameter.
        finite: Whether every element of W_t and of the anchor is finite.
        parameters: What delta amounts to in each selected parameter, by its name in the plain model.
        moving: Names of the parameters that candidates move: all, unless a guide has chosen some.
    """

    norms: dict[str, float]
    cosine_to_previous: float | None
    changed_fraction: float
    largest: dict[torch.dtype, tuple[float, float]]
    finite: bool
    parameters: dict[str, Move]
    moving: tuple[str, ...]

    @property
    def moving_fraction(self) -> float:
        """Share of the selected elements that candidates move, in [0, 1]."""
        return sum(self.parameters[name].numel for name in self.moving) / sum(
            move.numel for move in self.parameters.values()
        )


# Number of sums that `displacement` takes over elements: delta^2, delta * previous, previous^2, whether changed, and 1.
NUM_SUMS = 5
_BLOCK = 2**14  # number of elements


class Snapshot:
    """Anchor and current weights of a live model.

    Args:
        parameters: Parameters by name, on any device and of any floating dtype. DTensors are used shard by shard,
            without gathering.
        device: Device of the copies. With None, the copy of a parameter on the CPU is beside it, and that of a
            parameter on an accelerator is in pinned CPU memory.

    Raises:
        ConfigurationError: There are no parameters, one is not of a floating dtype or lies on the meta device, or two
            have one name in the plain model.

    Attributes:
        parameters: The live parameters, by their names in the plain model.
        is_sharded: Whether some parameter is a DTensor, so that processes may hold different parts.
        truncation: Largest and mean share of the jump that a trigger's candidates lost, over the products that are kept
            to their rank, by scale; empty but for a LoRA adapter.
    """

    def __init__(self, parameters: Mapping[str, torch.Tensor], device: str | torch.device | None = None) -> None:
        self.device = None if device is None else torch.device(device)
        self.parameters = by_clean_name(parameters.items())
        if not self.parameters:
            raise ConfigurationError("Got no parameters to extrapolate; expected those that are trained.")
        for name, parameter in self.parameters.items():
            if not parameter.is_floating_point() or parameter.device.type == "meta":
                raise ConfigurationError(
                    f"Parameter {name} is {parameter.dtype} on {parameter.device}; extrapolation needs floating "
                    "point weights in memory. Load the model unquantized."
                )
        self.is_sharded = any(isinstance(parameter, DTensor) for parameter in self.parameters.values())
        self.truncation: dict[float, tuple[float, float]] = {}
        live = self._live()
        self._anchor = {name: self._empty_copy(tensor) for name, tensor in live.items()}
        self._current = {name: self._empty_copy(tensor) for name, tensor in live.items()}
        self._has_previous = False
        self._moving: Collection[str] = self.parameters.keys()
        self._copy(live, self._anchor)

    def displacement(self) -> Displacement:
        """Sum up the displacement since the anchor. Call it before `begin`. It is collective with several processes."""
        return self._summarize(*self._sum_up())

    def _sum_up(self) -> tuple[dict[str, torch.Tensor], dict[torch.dtype, tuple[float, float]]]:
        """Take the sums over this process's part of each parameter, and the largest values by dtype."""
        sums: dict[str, torch.Tensor] = {}
        largest: dict[torch.dtype, tuple[float, float]] = {}
        for name, parameter in self.parameters.items():
            live = local_part(parameter)
            anchor = self._anchor[name].to(live.device, torch.promote_types(live.dtype, torch.float32))
            delta = torch.sub(live, anchor).flatten()  # in float32 for a half-precision parameter too
            row = torch.zeros(NUM_SUMS, dtype=torch.float64, device=live.device)
            row[0] = _dot(delta, delta)
            if self._has_previous:
                previous = torch.sub(anchor, self._current[name].to(live.device)).flatten()
                row[1], row[2] = _dot(delta, previous), _dot(previous, previous)
            row[3], row[4] = torch.count_nonzero(delta), live.numel()
            sums[name] = row.cpu() / self._num_replicas(parameter)
            peak = largest.get(parameter.dtype, (0.0, 0.0))
            if live.numel():
                peak = (max(peak[0], live.abs().amax().item()), max(peak[1], delta.abs().amax().item()))
            largest[parameter.dtype] = peak
        return sums, largest

    def begin(self, moving: Collection[str] | None = None) -> None:
        """Remember the parameters as W_t, in place of the anchor before the anchor.

        Args:
            moving: Names of the parameters that candidates move, while the others stay at W_t; None moves all.
        """
        self._has_previous = False
        self._moving = self.parameters.keys() if moving is None else frozenset(moving)
        self._copy(self._live(), self._current)

    @torch.no_grad()
    def write_candidate(self, scale: float) -> None:
        """Set the parameters that move to `W_t + scale * (W_t - anchor)`, each element rounded once from float32.

        Args:
            scale: Multiple of the displacement, finite and above -1. `1 + scale` is computed in float32, which is
                exact for integers and halves.
        """
        for name, live in self._live().items():
            if name not in self._moving:
                continue
            anchor, current = self._anchor[name], self._current[name]
            if anchor.device != live.device:
                anchor = anchor.to(live.device, non_blocking=True)
                current = live.copy_(current, non_blocking=True)
            # For a weight >= 1/2 torch computes current + (weight - 1) * (current - anchor), in one pass.
            torch.lerp(anchor, current, 1.0 + scale, out=live)

    def restore(self) -> None:
        """Set the parameters to W_t, bit for bit."""
        self._copy(self._current, self._live())

    def commit(self) -> None:
        """Make the parameters, as they are now, the anchor. The old anchor is kept to measure directions.

        If this is interrupted, the old anchor stays in place.
        """
        self._copy(self._live(), self._current)
        self._anchor, self._current = self._current, self._anchor
        self._has_previous = True

    def publish(self, alone: bool = False) -> None:
        """Bring copies of the parameters up to date, where training keeps some; call it after each change of them.

        Args:
            alone: Whether this process cannot count on the others to make the same call.
        """

    def save(self, path: Path) -> None:
        """Write this process's part to a safetensors file, under a temporary name until it is complete."""
        tensors = {f"anchor.{name}": tensor for name, tensor in self._anchor.items()}
        if self._has_previous:
            tensors |= {f"previous.{name}": tensor for name, tensor in self._current.items()}
        is_split = any(isinstance(parameter, DTensor) for parameter in self.parameters.values())
        save_parts(tensors, self._parts(), path, num_files=num_processes() if is_split else 1)

    def load(self, *paths: Path) -> None:
        """Read back what `save` wrote for the same parameters, whatever their sharding was.

        Args:
            *paths: The files of all processes that saved; one if the parameters were not sharded.

        Raises:
            CheckpointError: A file is missing, damaged, or holds other parameters or shapes.
        """
        where = paths[0] if len(paths) == 1 else paths[0].parent
        parts, own = self._parts(), dist.get_rank() if num_processes() > 1 else 0
        try:
            found = load_parts(paths, own, "anchor", parts, self._anchor)
            previous = load_parts(paths, own, "previous", parts, self._current)
        except Exception as error:
            raise CheckpointError(
                f"The extrapolation anchor at {where} cannot be read ({error}). Resume from an older checkpoint, or "
                "start again without resuming."
            ) from error
        expected = {name: part.shape for name, part in parts.items()}
        if expected != found:
            differing = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
            raise CheckpointError(
                f"The extrapolation anchor at {where} does not fit this model: {len(differing)} parameters differ, the "
                f"first is {differing[0]} (saved {found.get(differing[0])}, expected {expected.get(differing[0])}). "
                "Resume with the model and the settings that it was saved with."
            )
        self._has_previous = bool(previous)

    def _parts(self) -> dict[str, Part]:
        """Tell which part of each parameter this process holds."""
        return {name: part_of(parameter) for name, parameter in self.parameters.items()}

    def candidate_may_overflow(self, displacement: Displacement, scale: float) -> bool:
        """Whether some element of the candidate could leave the range of its dtype, or is not finite already."""
        return not displacement.finite or any(
            not weight + abs(scale) * delta < torch.finfo(dtype).max
            for dtype, (weight, delta) in displacement.largest.items()
        )

    def is_finite(self) -> bool:
        """Whether every selected parameter is finite on every process. This is collective with several processes."""
        finite = all(bool(torch.isfinite(live).all()) for live in self._live().values())
        return (
            bool(all_reduce(torch.tensor(float(finite)), dist.ReduceOp.MIN).item()) if num_processes() > 1 else finite
        )

    def _live(self) -> dict[str, torch.Tensor]:
        with torch.no_grad():
            return {name: local_part(parameter) for name, parameter in self.parameters.items()}

    def _empty_copy(self, tensor: torch.Tensor) -> torch.Tensor:
        if self.device is not None or tensor.device.type == "cpu":
            return torch.empty_like(tensor, device=self.device, memory_format=torch.contiguous_format)
        return torch.empty_like(tensor, device="cpu", memory_format=torch.contiguous_format).pin_memory()

    @staticmethod
    @torch.no_grad()
    def _copy(source: Mapping[str, torch.Tensor], target: Mapping[str, torch.Tensor]) -> None:
        devices: set[torch.device] = set()
        for name, tensor in source.items():
            target[name].copy_(tensor, non_blocking=True)
            devices |= {tensor.device, target[name].device}
        for device in devices:
            if device.type == "cuda":
                torch.cuda.synchronize(device)

    def _num_replicas(self, parameter: torch.Tensor) -> int:
        return num_replicas(parameter)

    def _summarize(
        self, sums: dict[str, torch.Tensor], largest: dict[torch.dtype, tuple[float, float]]
    ) -> Displacement:
        table = torch.stack(list(sums.values())).cpu()
        dtypes = sorted(largest, key=str)
        peaks = torch.tensor([largest[dtype] for dtype in dtypes], dtype=torch.float64)
        if num_processes() > 1:
            table, peaks = all_reduce(table, dist.ReduceOp.SUM), all_reduce(peaks, dist.ReduceOp.MAX)
        by_kind: dict[str, float] = {}
        for name, row in zip(sums, table.tolist(), strict=True):
            kind = locate(name).kind
            by_kind[kind] = by_kind.get(kind, 0.0) + row[0]
        squares, products, previous_squares, changed, numel = table.sum(0).tolist()
        return Displacement(
            norms={kind: math.sqrt(by_kind[kind]) for kind in sorted(by_kind)} | {"total": math.sqrt(squares)},
            cosine_to_previous=_cosine(squares, products, previous_squares),
            changed_fraction=changed / numel,
            largest={dtype: (row[0], row[1]) for dtype, row in zip(dtypes, peaks.tolist(), strict=True)},
            finite=math.isfinite(squares),
            parameters={
                name: Move(row[0], round(row[4]), _cosine(*row[:3]))
                for name, row in zip(sums, table.tolist(), strict=True)
            },
            moving=tuple(sums),
        )


def _dot(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Scalar product of two vectors in float64. On a CPU, torch's own is off by 1 % at 1e8 float32 squares."""
    if one.device.type != "cpu":
        return torch.dot(one, other).double()
    blocks = zip(one.split(_BLOCK), other.split(_BLOCK), strict=True)
    return torch.stack([torch.dot(*pair) for pair in blocks]).double().sum()


def _cosine(square: float, product: float, previous_square: float) -> float | None:
    """Cosine from two squared norms and the scalar product; None if one of the norms is zero, or not known."""
    denominator = math.sqrt(square * previous_square)
    return product / denominator if denominator > 0 else None
