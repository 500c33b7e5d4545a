"""The captions of the interactive figures: what each shows, how to read it, or why it is not drawn."""

from typing import NamedTuple

from effopd.report.analysis.records import AnalysisRecords
from effopd.report.analysis.series import SampledSpectrum

_ONE = "Not drawn: every run has a single checkpoint, so there is nothing to show over training."
_NO_SHIFT = "Not drawn: the analysis holds no embedding shift."


class Caption(NamedTuple):
    """The words of one interactive figure.

    Attributes:
        key: Name by which the script draws the figure.
        title: Heading above the figure.
        text: What the figure shows, and how to read it.
        absent: Why the figure is not drawn; empty if it is drawn.
    """

    key: str
    title: str
    text: str
    absent: str = ""


def make_captions(records: AnalysisRecords, spectra: list[SampledSpectrum]) -> dict[str, Caption]:
    """Make the captions of all interactive figures, by key. They say which figures these records do not allow."""
    one = _ONE if records.num_checkpoints < 2 else ""
    bare = (
        "" if len(records.matrices) else "Not drawn: the records hold no spectral metrics of attention or MLP matrices."
    )
    layers = "" if records.updates["layer"].notna().any() else "Not drawn: no parameter belongs to a numbered layer."
    aligned = "" if records.matrices["subspace_alignment"].notna().any() else "Not drawn: no alignment was recorded."
    tokens = "" if len(records.embedding_tokens) else _NO_SHIFT
    tracked = records.trajectories.dropna(subset=["pc1"]).groupby(["run", "parameter"]).size()
    trajectory = "" if (tracked > 2).any() else "Not drawn: a trajectory needs three checkpoints with an update."
    spectral = "" if spectra else "Not drawn: there is no file with the singular values of an update that is not zero."
    shift = "" if len(records.embeddings) else tokens or _NO_SHIFT
    picture = records.embedding_tokens["base_x"].notna().any()
    places = "" if picture else "Not drawn: the analysis made no picture of tokens in two dimensions."
    by_rank = "" if len(records.alignments) else "Not drawn: the analysis holds no alignment by rank."
    texts = (
        Caption("norms", "Norm of the update over training", _NORMS, one),
        Caption("layers", "Norm of the update by layer", _LAYERS, layers),
        Caption("concentration", "Concentration over training", _CONCENTRATION, one or bare),
        Caption("heat", "Metrics by layer and module", _HEAT, bare or layers),
        Caption("spectra", "Singular values", _SPECTRA, spectral),
        Caption("tail", "Norm of the tail", _TAIL, spectral),
        Caption("alignment", "Alignment with the last checkpoint", _ALIGNMENT, one or bare or aligned),
        Caption("ranks", "Alignment rank by rank", _RANKS, one or bare or by_rank),
        Caption("early", "Which directions are found early", _EARLY, one or bare or layers or aligned),
        Caption("trajectory", "Trajectory of the first singular vector", _TRAJECTORY, one or trajectory),
        Caption("paths", "Trajectories of all matrices", _PATHS, one or layers or trajectory),
        Caption("quantiles", "Embedding shift over training", _QUANTILES, one or shift),
        Caption("histogram", "Embedding shift by token", _HISTOGRAM, tokens),
        Caption("shift", "Where the embeddings went", _SHIFT, tokens or places),
    )
    return {caption.key: caption for caption in texts}


_NORMS = (
    "The Frobenius norm of ΔW, the difference from the base, at every checkpoint. It is taken over all parameters of "
    "the chosen kind together. A straight line means that training moves steadily in one direction. A line that grows "
    "like a square root means that training moves like a random walk."
)
_LAYERS = (
    "The Frobenius norm of ΔW in each layer at each run's last checkpoint. It is the root of the sum of squares over "
    "the layer's parameters of the chosen kind. Parameters outside the stack of layers are left out. The layers of a "
    "vision tower, or of another tower beside the language model, can be chosen separately."
)
_CONCENTRATION = (
    "The four metrics of the paper's Table 1 at every checkpoint. Lines are means over attention and MLP matrices, "
    "and bands hold the middle half of the matrices. A higher spectral / Frobenius ratio, a lower effective rank and a "
    "higher top-1 % ratio all mean that fewer directions carry the update."
)
_HEAT = (
    "There is one cell for each layer and module. Where a layer has several matrices of one module, which are experts, "
    "the cell is their mean. All runs share one colour scale. The effective rank that a matrix can have depends on its "
    "shape: compare cells along a row, or choose “effective rank / size”."
)
_SPECTRA = (
    "The singular values of ΔW at each run's last checkpoint. Both axes are logarithmic, and at most 64 values are "
    "drawn for each matrix, spaced evenly along the axis. A steep line means that a few directions carry the update. "
    "Values relative to σ₁ allow runs of different norm to be compared."
)
_TAIL = (
    "The Frobenius norm that is left of ΔW at each run's last checkpoint when its first singular components are left "
    "out: what the tail costs in norm. The line is the mean over attention and MLP matrices, and the band holds the "
    "middle half of them. At 1 %, what is left out is what the top-1 % ratio keeps."
)
_RANKS = (
    "The same comparison for every rank k = 1 to 20 that was evaluated: |cos| between the k-th left singular vectors, "
    "or the root mean square cosine between the spans of the first k. Lines are means over the attention and MLP "
    "matrices that have the rank. The dashed line is what random vectors or subspaces would reach. Vectors of close "
    "singular values can swap, which a span is blind to unless the swap crosses its edge."
)
_PATHS = (
    "The first left singular vector u₁ of every matrix in the layers, with a point for each checkpoint; a square is "
    "the first and a ring the last. Each cell has a scale of its own. Of the experts of a module, one is shown. Plain "
    "t-SNE sees the vectors as they are. The authors' recipe standardises every entry, keeps two principal components, "
    "and takes a perplexity of max(5, n / 3): entries count alike however little they move. In t-SNE, the axes and "
    "long distances mean nothing."
)
_ALIGNMENT = (
    "How far the top-20 left singular directions of ΔW already agree with those of the run's last checkpoint. The last "
    "checkpoint is compared with itself, which gives 1. Lines are means over attention and MLP matrices, and bands "
    "hold the middle half of the matrices. Singular vectors whose values lie close together can swap. This lowers the "
    "curves of vectors, but not that of subspaces. The dashed line is what random subspaces of the same size would "
    "reach."
)
_EARLY = (
    "|cos| between the first left singular vector u₁ at the chosen checkpoint and at the run's last one, by layer and "
    "module. Near 1, the dominant direction was there already. Near 0, it was found later, or two directions swapped."
)
_TRAJECTORY = (
    "The first left singular vector u₁ of one matrix, with a point for each checkpoint, in the plane of its first two "
    "principal components. Its sign, which is arbitrary, is aligned between checkpoints. EVR is the share of the "
    "variance that lies in this plane. A direction that moves by no more than float32 rounding is drawn as one point, "
    "without an EVR. Every run has a plane of its own, so positions in different panels do not compare. In a t-SNE "
    "picture, the axes and long distances mean nothing."
)
_QUANTILES = (
    "The cosine between a token's embedding in the base and at each checkpoint. Lines are means over the analysed "
    "tokens, and bands reach from the 5th to the 95th percentile. A cosine of 1 means that the embedding kept its "
    "direction."
)
_HISTOGRAM = (
    "The same cosine at each run's last checkpoint, as a histogram over all analysed tokens. Each token counts once, "
    "and all runs share the same bins."
)
_SHIFT = (
    "The embeddings of some tokens in two dimensions. The base, rings, and all runs, dots, share one plane; a line "
    "joins the places of a token. Point at a dot to see its token. Shifts that are too small to be seen are drawn "
    "longer in the plane of the principal components, by the factor above the picture. t-SNE does not show how far a "
    "token moved: the numbers do."
)
