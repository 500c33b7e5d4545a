"""A sample of weight matrices: the update of each since the base, and how they moved between measurements."""

import json
import math
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from effopd.errors import CheckpointError, ConfigurationError, DataError
from effopd.files import finite_or_none, replaced
from effopd.parameters import locate
from effopd.updates import displacement_cosine, spectrum

SPECTRAL = ("effective_rank", "top1pct_norm_ratio")
# Number of elements converted to float64 at a time where only a norm is wanted.
CHUNK = 1 << 22


def choose_matrices(names: list[str], parameters: Mapping[str, Tensor], count: int, max_bytes: int) -> list[str]:
    """Choose up to `count` of `names`, in their order, that take at most `max_bytes` together.

    Every module kind gives as many matrices, or all that it has if these are fewer. Within a kind they are evenly
    spaced, the first and the last included.

    Raises:
        ConfigurationError: Not one can be chosen.
    """
    kinds = sorted(_group(names).values(), key=len)
    for total in range(min(count, len(names)), 0, -1):
        chosen: set[str] = set()
        for index, group in enumerate(kinds):
            share = min(len(group), (total - len(chosen)) // (len(kinds) - index))
            chosen |= {group[i * (len(group) - 1) // max(share - 1, 1)] for i in range(share)}
        if num_bytes(parameters, chosen) <= max_bytes:
            return [name for name in names if name in chosen]
    raise ConfigurationError(
        f"Found no matrix to watch: the selection has {len(names)} trainable matrices, and copies of one may take "
        f"{max_bytes} bytes each. Change `parameters`, or raise `max_bytes`."
    )


def num_bytes(parameters: Mapping[str, Tensor], names: Iterable[str]) -> int:
    """Size of the named parameters; of sharded ones, the size of the whole."""
    return sum(parameters[name].numel() * parameters[name].element_size() for name in names)


class UpdateSample:
    """Copies of weights in CPU memory, and the metrics of their update.

    Args:
        weights: Names and CPU tensors of all weights to take norms of, as they are now, which is the base. The tensors
            are kept.
        sampled: Names of the matrices among them to take spectra and displacements of.
    """

    def __init__(self, weights: Iterable[tuple[str, Tensor]], sampled: Collection[str]) -> None:
        self._base = dict(weights)
        # The sampled matrices at the last measurement, and at the one before it.
        self._previous = {name: weight.clone() for name, weight in self._base.items() if name in sampled}
        self._earlier: dict[str, Tensor] = {}

    def measure(self, weights: Iterable[tuple[str, Tensor]]) -> dict[str, Any]:
        """Measure the update from the base to `weights`; `effopd.training.monitor` describes the keys.

        Args:
            weights: Names and CPU tensors of the same weights as the base has. Those of the sample are kept.
        """
        norms: dict[str, float] = {}
        current: dict[str, Tensor] = {}
        matrices: dict[str, dict[str, float | None]] = {}
        for name, weight in weights:
            norms[name] = _update_norm(weight, self._base[name])
            if name in self._previous:
                current[name] = weight
                spectral = _spectral(weight.double() - self._base[name].double())
                matrices[name] = {"update_norm": finite_or_none(norms[name]), **spectral}
        alignment = self._alignment(current) if all(math.isfinite(norms[name]) for name in current) else None
        self._previous, self._earlier = current, self._previous
        return {
            "update_norm": _norms_by_kind(norms),
            **{metric: _means({name: row[metric] for name, row in matrices.items()}) for metric in SPECTRAL},
            "displacement_alignment": alignment,
            "matrices": matrices,
        }

    def save(self, path: Path, metadata: dict[str, Any]) -> None:
        """Write everything to a safetensors file, under a temporary name until it is complete."""
        roles = {"base": self._base, "previous": self._previous, "earlier": self._earlier}
        tensors = {f"{role}:{name}": weight for role, copies in roles.items() for name, weight in copies.items()}
        with replaced(path) as temporary:
            save_file(tensors, temporary, metadata={key: json.dumps(value) for key, value in metadata.items()})

    @classmethod
    def load(
        cls, path: Path, shapes: Mapping[str, tuple[int, ...]], sampled: Collection[str]
    ) -> tuple["UpdateSample", dict[str, Any]]:
        """Read what `save` wrote, and its metadata.

        Args:
            path: Path of the file.
            shapes: Shapes by name of all weights that must be in the file.
            sampled: Names of the matrices that must be in the sample.

        Raises:
            CheckpointError: The file is damaged, or holds other weights.
        """
        copies: dict[str, dict[str, Tensor]] = {"base": {}, "previous": {}, "earlier": {}}
        try:
            with safe_open(path, "pt") as file:
                metadata = {key: json.loads(value) for key, value in file.metadata().items()}
                for key in file.keys():  # noqa: SIM118  (not a mapping)
                    role, _, name = key.partition(":")
                    copies[role][name] = file.get_tensor(key)
        except Exception as error:  # safetensors, the disk and JSON each raise their own
            raise CheckpointError(
                f"The update monitor's {path} cannot be read ({error}). Resume from another checkpoint, or remove the "
                "file to measure the update from this checkpoint on."
            ) from error
        found = {name: tuple(weight.shape) for name, weight in copies["base"].items()}
        if found != dict(shapes) or copies["previous"].keys() != set(sampled):
            raise CheckpointError(
                f"The update monitor's {path} is of other weights: it samples {sorted(copies['previous'])}, expected "
                f"{sorted(sampled)}. Resume with the settings it was saved with, or remove the file to measure the "
                "update from this checkpoint on."
            )
        self = cls((), ())
        self._base, self._previous, self._earlier = copies["base"], copies["previous"], copies["earlier"]
        return self, metadata

    def _alignment(self, current: Mapping[str, Tensor]) -> float | None:
        if not self._earlier:
            return None
        previous, earlier = self._previous, self._earlier
        return finite_or_none(
            displacement_cosine(
                (weight.double() - previous[name].double(), previous[name].double() - earlier[name].double())
                for name, weight in current.items()
            )
        )


def _update_norm(weight: Tensor, base: Tensor) -> float:
    pairs = zip(weight.flatten().split(CHUNK), base.flatten().split(CHUNK), strict=True)
    return math.hypot(*(float(torch.linalg.vector_norm(new.double() - old.double())) for new, old in pairs))


def _spectral(update: Tensor) -> dict[str, float | None]:
    try:
        result = spectrum(update)
    except DataError:  # the update is not finite: training has diverged, but a monitor is not what should stop it
        return dict.fromkeys(SPECTRAL)
    return {metric: getattr(result, metric) for metric in SPECTRAL}


def _group(names: Iterable[str]) -> dict[str, list[str]]:
    """Group names by module kind."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(locate(name).kind, []).append(name)
    return groups


def _norms_by_kind(norms: Mapping[str, float]) -> dict[str, float | None]:
    kinds = {kind: math.hypot(*(norms[name] for name in names)) for kind, names in _group(norms).items()}
    return {kind: finite_or_none(norm) for kind, norm in (kinds | {"total": math.hypot(*norms.values())}).items()}


def _means(values: Mapping[str, float | None]) -> dict[str, float]:
    """Take the means of the numbers among `values`, by kind and over all."""
    groups = _group(values) | {"mean": list(values)}
    numbers = {kind: [value for name in names if (value := values[name]) is not None] for kind, names in groups.items()}
    return {kind: fmean(group) for kind, group in numbers.items() if group}
