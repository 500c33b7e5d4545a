"""Interventions on a model on disk, which is read, changed and written tensor by tensor."""

import math
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from effopd import __version__
from effopd.checkpoints import Pair, open_model, open_pair, write_model
from effopd.checkpoints.model import split_expert
from effopd.errors import DataError, UnsupportedError
from effopd.files import write_json
from effopd.interventions.decomposition import Decomposition, decompose
from effopd.interventions.factors import SavedFactors
from effopd.interventions.norms import NormLookup
from effopd.interventions.plan import describe
from effopd.interventions.update import Intervention, NormReference, WeightSource, new_tensor
from effopd.models.directory import ADAPTER_WEIGHTS, CONFIG, MODEL_FILES
from effopd.parameters import locate

RECORD = "intervention.json"


def intervene(
    base: str | Path,
    trained: str | Path,
    interventions: Sequence[Intervention],
    out: str | Path,
    *,
    factors: SavedFactors | None = None,
    max_shard_bytes: int = 2 * 10**9,
    progress: Callable[[str, int], None] | None = None,
) -> dict[str, Any]:
    """Apply interventions to the update of a trained model, and write the new model.

    One tensor at a time is in memory, and one file of the output. A matrix that is truncated is held several times in
    float64. The new directory gets the trained model's config and tokenizer files (the base's tokenizer where the
    trained model has none) and a record, `intervention.json`. It appears under its name only when it is complete: an
    interruption leaves nothing behind.

    Args:
        base: Directory or hub name of the base.
        trained: Directory or hub name of a model or LoRA adapter trained from it.
        interventions: Interventions, applied to the update of each weight one after the other.
        out: Directory for the new model. It may exist if it is empty.
        factors: Singular vectors that an analysis of these two models has saved. They are used for truncations that
            need no more vectors than were saved.
        max_shard_bytes: Size in bytes above which a new file of weights is begun.
        progress: Function that is called before each tensor, with its name and the number of all tensors.

    Returns:
        The record: the models, the interventions as entries of a plan, the versions, and `update_norm`, the Frobenius
        norm of the new update before rounding, of the whole model and by module kind.

    Raises:
        ConfigurationError: An intervention has nothing to change in this model.
        DataError: `out` is not empty, a model cannot be read, the models do not match, or a new weight is not finite.
        OSError: The disk is full, or `out` cannot be written.
        UnsupportedError: An adapter has an output head that its base does not have.
    """
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out} exists and is not empty. Choose another directory, or remove it.")
    pair = open_pair(base, trained)
    _warn_of_tied_embedding(pair)
    for intervention in interventions:
        intervention.check(pair.shapes)
    like, norms = _like(pair, trained), _NormByKind()
    tensors = _new_tensors(pair, interventions, PairSource(pair, factors), norms, progress)
    staging = out.with_name(f".{out.name}.{os.getpid()}.new")
    try:
        write_model(staging, tensors, like, max_shard_bytes)
        _copy_tokenizer(pair.base.directory, staging)
        record = {
            "base": str(base),
            "trained": str(trained),
            "interventions": [describe(intervention) for intervention in interventions],
            "factors": str(factors.directory) if factors else None,
            "update_norm": norms.by_kind(),
            "versions": {"effopd": __version__, "torch": torch.__version__},
        }
        write_json(staging / RECORD, record)
        staging.replace(out)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    return record


class _NormByKind:
    """Adds up the Frobenius norm of a model's update, tensor by tensor."""

    def __init__(self) -> None:
        self._norms: dict[str, float] = {}

    def add(self, name: str, norm: float) -> None:
        """Add the norm of one tensor's update."""
        kind = locate(name).kind
        self._norms[kind] = math.hypot(self._norms.get(kind, 0.0), norm)

    def by_kind(self) -> dict[str, float]:
        """Return the norm of the whole model as `total`, and that of each module kind."""
        return {"total": math.hypot(*self._norms.values()), **self._norms}


def _new_tensors(
    pair: Pair,
    interventions: Sequence[Intervention],
    source: WeightSource,
    norms: _NormByKind,
    progress: Callable[[str, int], None] | None,
) -> Iterator[tuple[str, Tensor]]:
    for name, shape in pair.shapes.items():
        if progress:
            progress(name, len(pair.names))
        new = new_tensor(name, shape, interventions, source, with_norm=True)
        norms.add(name, new.norm or 0.0)
        yield name, new.tensor


class PairSource(WeightSource):
    """Reads the weights of a base and a trained model on disk.

    Args:
        pair: The two models.
        factors: Singular vectors that an analysis has saved of their update.
    """

    def __init__(self, pair: Pair, factors: SavedFactors | None = None) -> None:
        self._pair, self._factors = pair, factors
        self._norms = NormLookup(pair.base.directory)
        self.tied_heads = _tied_heads(pair)

    @override
    def base(self, name: str) -> Tensor:
        return self._pair.base.read(name)

    @override
    def trained(self, name: str) -> Tensor:
        return self._pair.read(name)[1] if name in self._pair.lora else self._pair.trained.read(name)

    @override
    def dtype(self, name: str) -> torch.dtype:
        return self._pair.trained.tensors[split_expert(name)[0]].dtype

    @override
    def delta(self, name: str) -> Tensor:
        return self._pair.delta(name)

    @override
    def is_difference(self, name: str) -> bool:
        return name not in self._pair.lora  # an adapter's update is its own product, not a difference

    @override
    def decomposition(self, name: str, update: Tensor, num_vectors: Callable[[int], int]) -> Decomposition:
        saved = self._factors.read(name, update) if self._factors else None
        if saved is not None and num_vectors(saved.rank) <= saved.vectors.shape[1]:
            return saved
        return decompose(update)

    @override
    def norm(self, model: NormReference, name: str) -> float:
        return self._norms.norm(model, name)


def _tied_heads(pair: Pair) -> frozenset[str]:
    """Find the output heads that the trained model ties, although they are stored (or only the base stores them)."""
    if not pair.trained.tied:
        return frozenset()
    tensors = {name: info for name, info in pair.trained.tensors.items() if name in pair.names}
    embeddings = [name for name in tensors if locate(name).kind == "embedding"]
    tied = set()
    for head in (name for name in tensors if locate(name).kind == "lm_head" and name.endswith("weight")):
        for embedding in embeddings:
            if tensors[head] == tensors[embedding] or (
                tensors[head].shape == tensors[embedding].shape
                and torch.equal(pair.trained.read(head), pair.trained.read(embedding))
            ):
                tied.add(head)
    return frozenset(tied)


def _warn_of_tied_embedding(pair: Pair) -> None:
    """Warn if an adapter trained the embedding of a model whose output head is that embedding."""
    kinds = {name: locate(name).kind for name in pair.names}
    in_adapter = [
        name for name in kinds if name in pair.lora or pair.trained.tensors[name].file.name == ADAPTER_WEIGHTS
    ]
    changed = [name for name in in_adapter if kinds[name] == "embedding"]
    if changed and pair.trained.tied and "lm_head" not in kinds.values():
        warnings.warn(
            f"The adapter changes {changed[0]}, which is the output head too. The new model has the change in both, as "
            "PEFT's own merge gives it; in training, only the embedding had it.",
            stacklevel=3,
        )


def _copy_tokenizer(base: Path, directory: Path) -> None:
    """Copy the base's tokenizer to a model that has none."""
    if not any(directory.glob("tokenizer*")):
        for file in {file for pattern in MODEL_FILES for file in base.glob(pattern) if file.is_file()}:
            if not (directory / file.name).exists():
                shutil.copyfile(file, directory / file.name)


def _like(pair: Pair, trained: str | Path) -> Path:
    """Choose the model whose config and tokenizer the new one gets: the trained one, if it has all the tensors."""
    for directory in (pair.trained.directory, pair.base.directory):
        if (directory / CONFIG).exists() and open_model(directory).tensors.keys() == set(pair.names):
            return directory
    raise UnsupportedError(
        f"{trained} gives {pair.base.directory} an output head of its own, which its config does not have. Merge "
        "the adapter with PEFT (`merge_and_unload`, `save_pretrained`) and pass the merged model."
    )
