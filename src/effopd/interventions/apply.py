"""An intervened model on disk: read, changed and written tensor by tensor."""

import math
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from effopd import __version__
from effopd.checkpoints import Pair, open_model, open_pair, write_model
from effopd.checkpoints.model import split_expert
from effopd.errors import DataError, UnsupportedError
from effopd.files import write_json
from effopd.interventions.factors import SavedFactors
from effopd.interventions.norms import NormLookup
from effopd.interventions.plan import describe
from effopd.interventions.truncate import Decomposition, decompose
from effopd.interventions.update import Intervention, NormReference, Source, new_tensor
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
    """Write the model that interventions make of a trained one.

    One tensor is in memory at a time, a matrix that is truncated several times over in float64, and one shard of the
    output. The new directory has the trained model's config and tokenizer files (the base's tokenizer if that has none)
    and a record, `intervention.json`; it is put in place when it is complete, so that an interruption leaves nothing.

    Args:
        base: Directory or hub name of the base.
        trained: Directory or hub name of a model or LoRA adapter trained from it.
        interventions: Applied to the update of each weight one after the other.
        out: The new directory; it may exist if it is empty.
        factors: Singular vectors that an analysis of this very pair has saved, used where they are enough.
        max_shard_bytes: Size above which a new file of weights is begun.
        progress: Called before each tensor with its name and the number of all.

    Returns:
        The record: the models, the interventions as entries of a plan, versions, and `update_norm`, the Frobenius norm
        of the new update before rounding, of the whole model and by module kind.

    Raises:
        ConfigurationError: An intervention has nothing to change in this model.
        DataError: `out` is not empty, a model cannot be read, models do not match, or a new weight is not finite.
        OSError: The disk is full, or `out` cannot be written.
        UnsupportedError: An adapter has an output head that its base has not.
    """
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out} is there already and not empty. Choose another directory, or remove it.")
    pair = open_pair(base, trained)
    _warn_of_tied_embedding(pair)
    for intervention in interventions:
        intervention.check(pair.shapes)
    like, norms = _like(pair, trained), _UpdateNorm()
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


class _UpdateNorm:
    """The Frobenius norm of a model's update, gathered tensor by tensor."""

    def __init__(self) -> None:
        self._norms: dict[str, float] = {}

    def add(self, name: str, norm: float) -> None:
        """Count one tensor's."""
        kind = locate(name).kind
        self._norms[kind] = math.hypot(self._norms.get(kind, 0.0), norm)

    def by_kind(self) -> dict[str, float]:
        """Of the whole model as `total`, and by module kind."""
        return {"total": math.hypot(*self._norms.values()), **self._norms}


def _new_tensors(
    pair: Pair,
    interventions: Sequence[Intervention],
    source: Source,
    norms: _UpdateNorm,
    progress: Callable[[str, int], None] | None,
) -> Iterator[tuple[str, Tensor]]:
    for name, shape in pair.shapes.items():
        if progress:
            progress(name, len(pair.names))
        new = new_tensor(name, shape, interventions, source, measure=True)
        norms.add(name, new.norm or 0.0)
        yield name, new.tensor


class PairSource:
    """A pair on disk, as interventions read it.

    Args:
        pair: The models.
        factors: Saved singular vectors of their updates.
    """

    def __init__(self, pair: Pair, factors: SavedFactors | None = None) -> None:
        self._pair, self._factors = pair, factors
        self._norms = NormLookup(pair.base.directory)
        self.tied_heads = _tied_heads(pair)

    def base(self, name: str) -> Tensor:
        """W_base as stored."""
        return self._pair.base.read(name)

    def trained(self, name: str) -> Tensor:
        """W as stored; base + update in the base's dtype where an adapter changes it."""
        return self._pair.read(name)[1] if name in self._pair.lora else self._pair.trained.read(name)

    def dtype(self, name: str) -> torch.dtype:
        """Dtype of `trained(name)`."""
        return self._pair.trained.tensors[split_expert(name)[0]].dtype

    def delta(self, name: str) -> Tensor:
        """The update dW in float64."""
        return self._pair.delta(name)

    def is_difference(self, name: str) -> bool:
        """Whether no adapter changes it."""
        return name not in self._pair.lora

    def decomposition(self, name: str, update: Tensor, num_vectors: Callable[[int], int]) -> Decomposition:
        """The saved one, if it has enough vectors; otherwise computed."""
        saved = self._factors.read(name, update) if self._factors else None
        if saved is not None and num_vectors(saved.rank) <= saved.vectors.shape[1]:
            return saved
        return decompose(update)

    def norm(self, model: NormReference, name: str) -> float:
        """Frobenius norm of another model's update of this weight."""
        return self._norms.norm(model, name)


def _tied_heads(pair: Pair) -> frozenset[str]:
    """Heads that the trained model ties, though they are stored (or only the base stores them)."""
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
    """Say so where an adapter trained the embedding of a model whose head is that embedding."""
    kinds = {name: locate(name).kind for name in pair.names}
    in_adapter = [
        name for name in kinds if name in pair.lora or pair.trained.tensors[name].file.name == ADAPTER_WEIGHTS
    ]
    changed = [name for name in in_adapter if kinds[name] == "embedding"]
    if changed and pair.trained.tied and "lm_head" not in kinds.values():
        warnings.warn(
            f"The adapter changes {changed[0]}, which is the output head too. The new model has the change in both, as "
            "after PEFT's own merge; in training, only the embedding had it.",
            stacklevel=3,
        )


def _copy_tokenizer(base: Path, directory: Path) -> None:
    """Give a model without a tokenizer that of its base."""
    if not any(directory.glob("tokenizer*")):
        for file in {file for pattern in MODEL_FILES for file in base.glob(pattern) if file.is_file()}:
            if not (directory / file.name).exists():
                shutil.copyfile(file, directory / file.name)


def _like(pair: Pair, trained: str | Path) -> Path:
    """The model whose config and tokenizer go with the tensors of the pair: the trained one if it has them all."""
    for directory in (pair.trained.directory, pair.base.directory):
        if (directory / CONFIG).exists() and open_model(directory).tensors.keys() == set(pair.names):
            return directory
    raise UnsupportedError(
        f"{trained} gives {pair.base.directory} an output head of its own, which its config does not know. Merge the "
        "adapter with PEFT (`merge_and_unload`, `save_pretrained`) and pass the merged model."
    )
