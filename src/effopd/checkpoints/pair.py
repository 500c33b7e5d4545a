"""A base model and the model trained from it, matched tensor by tensor."""

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from effopd.checkpoints.lora import LoraFactors, open_adapter
from effopd.checkpoints.model import ModelReader, natural_order, open_model, split_expert, untie
from effopd.checkpoints.rounding import half_unit_square, round_to
from effopd.errors import ConfigurationError, DataError, listing
from effopd.models.directory import weights_kind
from effopd.models.find import model_directory
from effopd.parameters import OTHER, locate

_SEPARATE = re.compile(r"\.(?:[qkv]|gate|up)_proj\.|experts\.\d+\.")
_FUSED = re.compile(r"qkv|gate_up|experts\.[a-z]")
_CHUNK = 2**16  # elements
HEAD = "lm_head.weight"


class Difference(NamedTuple):
    """The update of a tensor, or of a window of it.

    Attributes:
        delta: dW = W - W_base in float64.
        base_square: Sum of squares of W_base.
        rounding_square: Sum of squares of half a unit in the last place of W as it is stored. Its root is the most by
            which dW can differ, in norm, from the update that training made before W was rounded to its stored dtype.
    """

    delta: torch.Tensor
    base_square: float
    rounding_square: float


@dataclass(frozen=True)
class Pair:
    """A base and a trained model whose names and shapes agree.

    A pair holds paths and no open file, and can be pickled.

    Attributes:
        base: Base model; if only the trained model stores an output head, the base's is read from its embedding.
        trained: Trained model; for an adapter, the base with the tensors that the adapter replaces.
        lora: Low-rank updates to add to `trained`, by tensor name; empty for a whole model.
        names: Names of the tensors that both have, in the order of their layers.
        ignored: Names that were left out on request.
    """

    base: ModelReader
    trained: ModelReader
    lora: dict[str, LoraFactors]
    names: list[str]
    ignored: list[str]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor in `names`."""
        return {name: self.base.tensors[name].shape for name in self.names}

    @property
    def matrices(self) -> dict[str, tuple[int, int]]:
        """Rows and columns of every matrix as stored, by name.

        Each expert of a 3-D MLP tensor is a matrix, `name[expert]`. Vectors, biases (also those stacked by expert) and
        convolution kernels are in `names` only.
        """
        return matrix_shapes(self.shapes)

    @property
    def other(self) -> list[str]:
        """Names of the tensors whose role is not known to `effopd.parameters.locate`, for reports."""
        return [name for name in self.names if locate(name).kind == OTHER]

    def read(self, name: str, merged_dtype: torch.dtype | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Read the base's and the trained model's tensor, as stored.

        A trained matrix with a low-rank update is that of the merged model: base + update in float64, rounded once.

        Args:
            name: Name in `names` or `matrices`.
            merged_dtype: Dtype to which merged matrices are rounded; by default the stored one.

        Raises:
            DataError: There is no such tensor, or its file has changed.
        """
        self._shape(name)
        base, trained = self.base.read(name), self.trained.read(name)
        if name in self.lora:
            merged = self.lora[name].delta(tuple(trained.shape)).add_(trained)
            trained = round_to(merged, merged_dtype or trained.dtype)
        return base, trained

    def delta(self, name: str, *window: slice) -> torch.Tensor:
        """Compute the update dW = W - W_base, the difference of the stored values in float64.

        It is exact unless the two values differ by a factor above 2^29 (fp32) or 2^45 (bf16). With low-rank factors it
        is scaling * B @ A, computed in float64 and not rounded to the base's dtype. It takes 8 bytes per element beside
        the stored tensors: 1.1 GB for a 5120 x 27648 MLP matrix and 6.2 GB for a 152064 x 5120 embedding. Read tensors
        of that size in windows.

        Args:
            name: Name in `names` or `matrices`.
            window: Slices of the rows, columns and so on to compute; all of them by default.

        Returns:
            The update in float64, of the stored shape or of the window's.

        Raises:
            DataError: There is no such tensor, its file has changed, or the difference is not finite.
        """
        return self.difference(name, *window).delta

    def dtype(self, name: str) -> torch.dtype:
        """Tell the dtype that the trained model stores a tensor in."""
        return self.trained.tensors[split_expert(name)[0]].dtype

    def difference(self, name: str, *window: slice) -> Difference:
        """Compute the update as `delta` does, and sums about both models there, in one reading."""
        shape = self._shape(name)
        tensor, _ = split_expert(name)
        base = self.base.read(name, *window)
        if self.trained.tensors[tensor] != self.base.tensors[tensor]:
            stored = self.trained.read(name, *window)
            delta, base_square = _difference(stored, base)
            rounding_square = half_unit_square(stored)
        else:
            rounding_square = 0.0  # an adapter's update is stored by itself
            delta = torch.zeros(base.shape, dtype=torch.float64)
            number = base if base.is_floating_point() else base.double()
            base_square = float(torch.linalg.vector_norm(number, dtype=torch.float64)) ** 2
        if name in self.lora:
            delta += self.lora[name].delta(shape, *window)
        if not math.isfinite(delta.sum()):  # torch.isfinite() would make a copy
            if not math.isfinite(base_square):
                raise DataError(
                    f"{name}: the base {self.base.directory} holds NaN or infinite numbers there; expected finite ones."
                    " Copy or download it again, or leave the tensor out with `ignore`."
                )
            raise DataError(
                f"{name}: {self.trained.directory} minus {self.base.directory} is not finite. Did training diverge?"
                " Use an earlier checkpoint."
            )
        return Difference(delta, base_square, rounding_square)

    def unchanged_fraction(self, name: str) -> float:
        """Compute the share of a tensor's elements that are equal in both models as `read` gives them, in [0, 1]."""
        base, trained = self.read(name)
        return (base == trained).sum().item() / max(base.numel(), 1)

    def _shape(self, name: str) -> tuple[int, ...]:
        shape = self.base.shape(name)
        if shape is None or split_expert(name)[0] in self.ignored:
            raise DataError(f"{name!r} is no tensor of this pair, whose names begin {listing(self.names, 3)}.")
        return shape


def open_pair(base: str | Path, trained: str | Path, ignore: Sequence[str] = ()) -> Pair:
    """Open a base and a model or LoRA adapter trained from it, and check that they match.

    Args:
        base: Directory or hub name of a whole model.
        trained: Directory or hub name of a whole model, or of an adapter in PEFT's layout.
        ignore: Regular expressions that are searched for in the names of both models' tensors. Tensors that they match
            are left out, and listed in `Pair.ignored`.

    Raises:
        ConfigurationError: A regular expression is not valid.
        DataError: A model cannot be read (see `open_model`), or names or shapes differ.
        UnsupportedError: Weights are quantised, or an adapter is no plain LoRA.
    """
    base_model, trained_directory = open_model(base), model_directory(trained)
    lora: dict[str, LoraFactors] = {}
    if weights_kind(trained_directory) == "adapter":
        adapter = open_adapter(trained_directory)
        lora = adapter.factors
        changed: dict[str, tuple[int, ...]] = {name: factors.shape for name, factors in lora.items()}
        changed |= {name: info.shape for name, info in adapter.replacements.items()}
        changed |= _head_that_stays(base_model, adapter.replacements.keys() - lora.keys())
        base_model = untie(base_model, changed)
        trained_model = ModelReader(trained_directory, base_model.tensors | adapter.replacements, base_model.tied)
    else:
        trained_model = open_model(trained_directory)
        base_model = untie(base_model, trained_model.shapes)
        trained_model = untie(trained_model, base_model.shapes)
    everything = sorted(base_model.tensors.keys() | trained_model.tensors.keys() | lora.keys(), key=natural_order)
    ignored = _matching(everything, ignore)
    lora = {name: factors for name, factors in lora.items() if name not in ignored}
    names = [name for name in everything if name not in ignored]
    _check_match(base_model, trained_model, lora, names)
    return Pair(base_model, trained_model, lora, names, sorted(ignored, key=natural_order))


def _head_that_stays(base: ModelReader, replacements: Collection[str]) -> dict[str, tuple[int, ...]]:
    """Name a tied base's output head with its shape if an adapter brings an embedding of its own (`modules_to_save`).

    PEFT then trains a copy of the embedding, and the head remains the base's. An embedding with LoRA factors, beside
    which PEFT saves the base's own, is no such copy.
    """
    kinds = {name: locate(name).kind for name in {*base.tensors, *replacements} if name.endswith("weight")}
    embeddings = [name for name in base.tensors if kinds.get(name) == "embedding"]
    tokens = max(embeddings, key=lambda name: base.tensors[name].shape[0], default=None)  # the others are positions
    if tokens is None or not base.tied or tokens not in replacements or "lm_head" in kinds.values():
        return {}
    return {HEAD: base.tensors[tokens].shape}


def _difference(trained: torch.Tensor, base: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Compute the difference in float64, and the base's sum of squares.

    Most of the time goes into converting to float64, which is done in parts that fit into the processor's cache.
    """
    result, base_square = torch.empty(trained.shape, dtype=torch.float64), 0.0
    parts = (tensor.flatten().split(_CHUNK) for tensor in (trained, base))
    for one, other, out in zip(*parts, result.view(-1).split(_CHUNK), strict=True):
        exact = other.double()
        torch.sub(one.double(), exact, out=out)
        base_square += float(torch.dot(exact, exact))
    return result, base_square


def matrix_shapes(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, int]]:
    """List the matrices among tensors, with their rows and columns, as `Pair.matrices` does."""
    found: dict[str, tuple[int, int]] = {}
    for name, shape in shapes.items():
        if len(shape) == 2 and not name.endswith("bias"):
            found[name] = (shape[0], shape[1])
        elif len(shape) == 3 and locate(name).kind == "mlp":
            found |= {f"{name}[{expert}]": (shape[1], shape[2]) for expert in range(shape[0])}
    return found


def _matching(names: list[str], ignore: Sequence[str]) -> set[str]:
    if isinstance(ignore, str):
        raise ConfigurationError(f"ignore: got the string {ignore!r}; expected a list of patterns, [{ignore!r}].")
    try:
        patterns = [re.compile(pattern) for pattern in ignore]
    except re.error as error:
        raise ConfigurationError(f"ignore: {error.pattern!r} is not a regular expression ({error}).") from error
    return {name for name in names if any(pattern.search(name) for pattern in patterns)}


def _check_match(base: ModelReader, trained: ModelReader, lora: dict[str, LoraFactors], names: list[str]) -> None:
    only_base = [name for name in names if name not in trained.tensors and name not in lora]
    only_trained = [name for name in names if name not in base.tensors]
    shapes = [
        f"{name} (base {tuple(base.tensors[name].shape)}, trained {tuple(trained.tensors[name].shape)})"
        for name in names
        if name in base.tensors and name in trained.tensors and base.tensors[name].shape != trained.tensors[name].shape
    ]
    shapes += [
        f"{name} (base {trained.tensors[name].shape}, A {factors.a.shape}, B {factors.b.shape})"
        for name, factors in lora.items()
        if name in trained.tensors and not factors.fits(trained.tensors[name].shape)
    ]
    if not (only_base or only_trained or shapes):
        return
    lines = [f"The base {base.directory} and the trained {trained.directory} do not match:"]
    for what, found in (
        ("only in the base", only_base),
        ("only in the trained model", only_trained),
        ("of different shapes", shapes),
    ):
        if found:
            lines.append(f"  {len(found)} tensors {what}: {listing(found)}")
    for one, two in ((only_base, only_trained), (only_trained, only_base)):
        if any(_SEPARATE.search(name) for name in one) and any(_FUSED.search(name) for name in two):
            lines.append("One stores projections or experts fused, the other separately: save both by the same class.")
    if any(locate(entry.split(" ")[0]).kind in ("embedding", "lm_head") for entry in shapes):
        lines.append("The embedding was resized: pass a base resized in the same way.")
    lines.append("Pass the base that training started from. An analysis can leave tensors out too: `ignore`, patterns.")
    raise DataError("\n".join(lines))
