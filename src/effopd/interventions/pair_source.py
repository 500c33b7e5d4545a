"""The weights of a base and a trained model on disk, as interventions read them."""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from typing_extensions import override

from effopd.checkpoints import Pair
from effopd.interventions.decomposition import Decomposition, decompose
from effopd.interventions.factors import SavedFactors
from effopd.interventions.norms import NormLookup
from effopd.interventions.realised import difference_norm
from effopd.interventions.update import NormReference, WeightSource
from effopd.parameters import locate


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
        return self._pair.dtype(name)

    @override
    def delta(self, name: str) -> Tensor:
        return self._pair.delta(name)

    @override
    def delta_norm(self, name: str) -> float:
        norm = difference_norm(self.base(name), self.trained(name))
        return norm if math.isfinite(norm) else float(torch.linalg.vector_norm(self.delta(name)))  # which says why

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
