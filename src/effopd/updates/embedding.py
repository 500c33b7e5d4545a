"""How far training has moved the token embeddings (arXiv 2605.11739, the section on embedding shift).

Shape suffixes: N tokens, V vocabulary entries, D embedding dimensions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from effopd.errors import DataError
from effopd.updates.projection import project

_CHUNK_ROWS = 8192


@dataclass(frozen=True, eq=False)
class EmbeddingShift:
    """Cosines between the embeddings of tokens before and after training.

    Attributes:
        token_ids: Ids of the tokens, int64 [N].
        cosine: Cosine of each token, float64 [N], in [-1, 1]. It is NaN if one of the two rows is all zeros, which has
            no direction.
        num_undefined: Number of cosines that are NaN.
        mean: Mean of all other cosines, in which each entry of `token_ids` counts once; None if there are none.
    """

    token_ids: Tensor
    cosine: Tensor
    num_undefined: int
    mean: float | None


def embedding_shift(base: Tensor, trained: Tensor, token_ids: Tensor | None = None) -> EmbeddingShift:
    """Compute the cosines between base and trained embedding rows, in float64, a few thousand rows at a time.

    Args:
        base: Embedding matrix of the base [V, D], of any floating dtype.
        trained: Embedding matrix of the trained model [V', D]. V and V' may differ, as padded vocabularies do, if
            `token_ids` are given.
        token_ids: Ids of the tokens that count, int64 [N], for example `torch.unique` of those in some text; None for
            all tokens.

    Raises:
        DataError: The matrices do not fit each other, or an id lies outside one of them.
    """
    token_ids = _checked_ids(base, trained, token_ids)
    chunks = []
    for ids in token_ids.split(_CHUNK_ROWS):
        base_ND, trained_ND = base[ids].double(), trained[ids].double()
        norms_N = torch.linalg.vector_norm(base_ND, dim=1) * torch.linalg.vector_norm(trained_ND, dim=1)
        chunks.append(
            (base_ND * trained_ND).sum(dim=1) / norms_N
        )  # 0 / 0 gives the NaN that stands for an undefined cosine
    cosine = torch.cat(chunks).clamp(-1, 1)
    defined = cosine[~cosine.isnan()]
    mean = float(defined.mean()) if len(defined) else None
    return EmbeddingShift(token_ids, cosine, len(cosine) - len(defined), mean)


def embedding_picture(
    base: Tensor,
    trained: Sequence[Tensor],
    token_ids: Tensor,
    *,
    method: Literal["pca", "tsne"] = "pca",
    seed: int = 0,
) -> list[Tensor]:
    """Place the embeddings of some tokens before training and after that of several runs in one common plane.

    Args:
        base: Embedding matrix of the base [V, D].
        trained: Embedding matrices of the trained models [V', D].
        token_ids: Ids of the tokens, int64 [N]. t-SNE takes minutes for more than some thousands of points.
        method: Method of projection (see `effopd.updates.projection`).
        seed: Random seed of t-SNE.

    Returns:
        Coordinates of the tokens in the base, and then in each trained model, float64 [N, 2] each.

    Raises:
        DataError: The matrices do not fit each other, or an id lies outside one of them.
    """
    for matrix in trained:
        token_ids = _checked_ids(base, matrix, token_ids)
    points = torch.cat([matrix[token_ids].double() for matrix in (base, *trained)])
    return list(project(points, method, seed=seed).split(len(token_ids)))


def _checked_ids(base: Tensor, trained: Tensor, token_ids: Tensor | None) -> Tensor:
    if base.ndim != 2 or trained.ndim != 2 or base.shape[1] != trained.shape[1]:
        raise DataError(
            f"Got embeddings of shapes {tuple(base.shape)} and {tuple(trained.shape)}; expected "
            "[vocabulary, dimension] with one dimension."
        )
    num_rows = min(len(base), len(trained))
    if token_ids is None:
        if len(base) != len(trained):
            raise DataError(
                f"Got vocabularies of {len(base)} and {len(trained)} rows and no token ids. Pass the ids that both "
                f"have, for example torch.arange({num_rows})."
            )
        token_ids = torch.arange(num_rows, device=base.device)
    if token_ids.ndim != 1 or len(token_ids) == 0 or not bool(((token_ids >= 0) & (token_ids < num_rows)).all()):
        raise DataError(
            f"Got token ids of shape {tuple(token_ids.shape)}; expected at least one, in a vector, each in "
            f"[0, {num_rows}), the rows that both embeddings have."
        )
    return token_ids
