"""What the figures of the interactive report show and how to read them."""

from typing import NamedTuple

from effopd.report.analysis.records import Records
from effopd.report.analysis.series import SampledSpectrum

_ONE = "Not drawn: every run has a single checkpoint, so there is nothing over training to show."


class Caption(NamedTuple):
    """A figure's words.

    Attributes:
        key: Name that the script draws it under.
        title: Heading.
        text: What it shows and how to read it.
        absent: Why it is not drawn; empty if it is.
    """

    key: str
    title: str
    text: str
    absent: str = ""


def make_captions(records: Records, spectra: list[SampledSpectrum]) -> dict[str, Caption]:
    """The captions of all figures, by key, with what cannot be drawn from these records."""
    one = _ONE if records.num_checkpoints < 2 else ""
    bare = (
        "" if len(records.matrices) else "Not drawn: the records hold no spectral metrics of attention or MLP matrices."
    )
    layers = "" if records.updates["layer"].notna().any() else "Not drawn: no parameter belongs to a numbered layer."
    aligned = "" if records.matrices["subspace_alignment"].notna().any() else "Not drawn: no alignment was recorded."
    tokens = "" if len(records.embedding_tokens) else "Not drawn: the analysis holds no embedding shift."
    tracked = records.trajectories.dropna(subset=["pc1"]).groupby(["run", "parameter"]).size()
    trajectory = "" if (tracked > 2).any() else "Not drawn: a trajectory needs three checkpoints with an update."
    spectral = "" if spectra else "Not drawn: there is no file of singular values of a non-zero update."
    shift = "" if len(records.embeddings) else tokens or "Not drawn: the analysis holds no embedding shift."
    texts = (
        Caption("norms", "Norm of the update over training", _NORMS, one),
        Caption("layers", "Norm of the update by layer", _LAYERS, layers),
        Caption("concentration", "Concentration over training", _CONCENTRATION, one or bare),
        Caption("heat", "Layer by module", _HEAT, bare or layers),
        Caption("spectra", "Singular values", _SPECTRA, spectral),
        Caption("alignment", "Alignment with the last checkpoint", _ALIGNMENT, one or bare or aligned),
        Caption("early", "Which directions are found early", _EARLY, one or bare or layers or aligned),
        Caption("trajectory", "Trajectory of the first singular vector", _TRAJECTORY, one or trajectory),
        Caption("quantiles", "Embedding shift over training", _QUANTILES, one or shift),
        Caption("histogram", "Embedding shift by token", _HISTOGRAM, tokens),
        Caption("shift", "Where the embeddings went", _SHIFT, tokens or _picture(records)),
    )
    return {caption.key: caption for caption in texts}


def _picture(records: Records) -> str:
    return "" if records.embedding_tokens["base_x"].notna().any() else "Not drawn: no picture of tokens was made."


_NORMS = (
    "Frobenius norm of ΔW, the difference to the base, of all parameters of the chosen kind taken together, at every "
    "checkpoint. A straight line means steady movement in one direction; a square root, that of a random walk."
)
_LAYERS = (
    "Frobenius norm of ΔW in each layer at each run's last checkpoint: root of the sum of squares over the layer's "
    "parameters of the chosen kind. Parameters outside the stack of layers are not in it; layers of a vision tower and "
    "the like are apart."
)
_CONCENTRATION = (
    "The three metrics of the paper's Table 1 at every checkpoint. Lines are means over attention and MLP matrices, "
    "bands hold the middle half of the matrices. A higher spectral / Frobenius ratio, a lower effective rank and a "
    "higher top-1 % ratio all mean that fewer directions carry the update."
)
_HEAT = (
    "One cell per layer and module; where a layer has several matrices of one module (experts), their mean. Runs share "
    "one colour scale. Matrices of different shape have different possible effective ranks: compare along a row, or "
    "choose “effective rank / size”."
)
_SPECTRA = (
    "Singular values of ΔW at each run's last checkpoint, both axes logarithmic, at most 64 of them evenly along the "
    "axis. A steep line means that a few directions carry the update. Relative to σ₁, runs of different norm compare."
)
_ALIGNMENT = (
    "How far the top-20 left singular directions of ΔW already agree with those of the run's last checkpoint, which "
    "compares with itself at 1. Lines are means over attention and MLP matrices, bands hold their middle half. "
    "Singular vectors whose values lie close together can swap, which lowers the vector curves but not that of "
    "subspaces; the dashed line is what random subspaces of the same size would reach."
)
_EARLY = (
    "|cos| between the first left singular vector u₁ at the chosen checkpoint and at the run's last one, by layer and "
    "module. Near 1: the dominant direction was there already. Near 0: it was found later, or two directions swapped."
)
_TRAJECTORY = (
    "The sign-aligned first left singular vector u₁ of one matrix, a point per checkpoint, in the plane of its first "
    "two principal components; EVR is the share of the variance in that plane. A direction that moves by no more than "
    "float32 rounding is one point, without EVR. Every run has a plane of its own, so positions do not compare between "
    "panels. In a t-SNE picture, axes and long distances mean nothing."
)
_QUANTILES = (
    "Cosine between a token's embedding in the base and at each checkpoint. Lines are means over the tokens analysed, "
    "bands reach from the 5th to the 95th percentile. 1 means that the embedding kept its direction."
)
_HISTOGRAM = (
    "The same cosine at each run's last checkpoint, as a histogram over all tokens analysed, each counted once; runs "
    "share their bins."
)
_SHIFT = (
    "Embeddings of some tokens in two dimensions, each joined to where training took it: hollow in the base, filled "
    "after training. Hover for the token. Every run has a plane of its own."
)
