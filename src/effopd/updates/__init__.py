"""What training did to the weights: spectra, directions, norms and embeddings (arXiv 2605.11739).

For one weight before and after training:

    update = trained.double() - base.double()            # the exact difference of the stored values
    spectrum(update).effective_rank                       # how many directions the update uses
    singular_vectors(update, k=20).left                   # which directions these are

One decomposition is enough for both:

    eigen = gram_eigen(update, vectors=True)
    metrics, final = spectrum(update, eigen=eigen), singular_vectors(update, eigen=eigen)

An earlier checkpoint's update of the same weight shows how early the directions were settled:

    early = singular_vectors(early_update)
    vector_alignment(early.left, final.left).mean()       # the paper's number, 1 if no vector has turned
    subspace_alignment(early.left, final.left)            # the same for the subspace as a whole

One call measures all weights of two models, given as directories or state dicts:

    for record in compare(base, trained):
        print(record.parameter, record.effective_rank)

Everything that is exported here works on tensors and numbers, except for `compare`, which reads models. `UpdateBlocks`
stands for a matrix that is too large to be held in memory.
"""

from effopd.updates.blocks import UpdateBlocks
from effopd.updates.embedding import EmbeddingShift, embedding_picture, embedding_shift
from effopd.updates.gram import GramEigen, gram_eigen
from effopd.updates.measure import compare
from effopd.updates.projection import pca, tsne, tsne_of_authors
from effopd.updates.records import UpdateRecord
from effopd.updates.spectrum import Spectrum, spectrum
from effopd.updates.subspace import (
    SingularVectors,
    Trajectory,
    displacement_cosine,
    nested_alignment,
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
    "nested_alignment",
    "pca",
    "singular_vectors",
    "spectrum",
    "subspace_alignment",
    "trajectory",
    "tsne",
    "tsne_of_authors",
    "vector_alignment",
]
