"""What training did to the weights: spectra, directions, norms and embeddings (arXiv 2605.11739).

One weight, before and after training:

    update = trained.double() - base.double()            # the exact difference of the stored values
    spectrum(update).effective_rank                       # how many directions it uses
    singular_vectors(update, k=20).left                   # which ones

Both of these from one decomposition:

    eigen = gram_eigen(update, vectors=True)
    metrics, final = spectrum(update, eigen=eigen), singular_vectors(update, eigen=eigen)

How early the direction was settled, from an earlier checkpoint's update of the same weight:

    early = singular_vectors(early_update)
    vector_alignment(early.left, final.left).mean()       # the paper's number, 1 when nothing turned
    subspace_alignment(early.left, final.left)            # the same for the subspace as a whole

All of that for two models, as directories or state dicts, in one call:

    for record in compare(base, trained):
        print(record.parameter, record.effective_rank)

What is exported here computes from tensors and numbers; only `compare` reads models. `UpdateBlocks` stands for a matrix
too large to hold.
"""

from effopd.updates.blocks import UpdateBlocks
from effopd.updates.embedding import EmbeddingShift, embedding_picture, embedding_shift
from effopd.updates.gram import GramEigen, gram_eigen
from effopd.updates.measure import compare
from effopd.updates.projection import pca, tsne
from effopd.updates.records import UpdateRecord
from effopd.updates.spectrum import Spectrum, spectrum
from effopd.updates.subspace import (
    SingularVectors,
    Trajectory,
    displacement_cosine,
    singular_vectors,
    subspace_alignment,
    trajectory,
    vector_alignment,
)

__all__ = [
    "EmbeddingShift",
    "GramEigen",
    "SingularVectors",
    "Spectrum",
    "Trajectory",
    "UpdateBlocks",
    "UpdateRecord",
    "compare",
    "displacement_cosine",
    "embedding_picture",
    "embedding_shift",
    "gram_eigen",
    "pca",
    "singular_vectors",
    "spectrum",
    "subspace_alignment",
    "trajectory",
    "tsne",
    "vector_alignment",
]
