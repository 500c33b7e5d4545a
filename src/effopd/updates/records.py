"""What was measured of one parameter of one checkpoint: a row of `updates.parquet`."""

from dataclasses import dataclass


@dataclass(frozen=True)
class UpdateRecord:
    """One parameter of one checkpoint against the base; dW = W - W_base, as float64 difference of the stored values.

    Attributes:
        run: Name of the run.
        checkpoint: Index of the checkpoint in its run, from 0, in the order of training.
        step: Optimizer steps taken; None where nothing tells.
        parameter: Its name; with an index in brackets, one expert of a 3-D stack.
        layer: See `effopd.parameters.Location`; so are `module` and `kind`.
        module: Path of the module.
        kind: Its role.
        rows: First dimension.
        cols: The product of the others; 1 for a vector.
        frobenius_norm: `||dW||_F`.
        base_norm: `||W_base||_F`.
        changed_fraction: Share of entries that differ, in [0, 1]; small where bf16 rounds updates away.
        spectral_norm: sigma_1. This and the rest, up to `route`, are None for anything but a matrix.
        spectral_to_frobenius: See `effopd.updates.Spectrum`; None too for an update of zeros.
        effective_rank: Likewise; 0 for an update of zeros.
        top1pct_norm_ratio: Likewise; None for an update of zeros.
        rank: Likewise.
        relative_error: Likewise.
        route: Likewise.
        displacement_norm: `||W_t - W_(t-1)||_F`, where the base comes before the first checkpoint.
        displacement_cosine: Cosine between that and the displacement before it; None at the first checkpoint, and where
            one of the two is zero.
        vector_alignment: Mean of `|cos(u_k(t), u_k(T))|` over k = 1..`num_vectors`, T the run's last checkpoint. None
            where either update is zero; so for the next four.
        first_vector_cosine: `|cos(u_1(t), u_1(T))|`.
        subspace_alignment: Root mean square of the cosines of the principal angles between the spans of the same
            vectors, in [0, 1].
        chance_alignment: Its expected value for random subspaces, `sqrt(num_vectors / rows)`.
        num_vectors: How many vectors the alignments compare: 20, or fewer where the matrix or, at one of the two
            checkpoints, the update has fewer singular values above what is resolved (some 1e-6 of sigma_1): low rank.
        trajectory_evr: EVR_{0:2} of u_1 over the run's checkpoints, the same at each; None for fewer than four, and
            where u_1 does not move beyond float32 rounding (see `effopd.updates.Trajectory`).
    """

    run: str
    checkpoint: int
    step: int | None
    parameter: str
    layer: int | None
    module: str
    kind: str
    rows: int
    cols: int
    frobenius_norm: float
    base_norm: float
    changed_fraction: float
    spectral_norm: float | None = None
    spectral_to_frobenius: float | None = None
    effective_rank: float | None = None
    top1pct_norm_ratio: float | None = None
    rank: int | None = None
    relative_error: float | None = None
    route: str | None = None
    displacement_norm: float | None = None
    displacement_cosine: float | None = None
    vector_alignment: float | None = None
    first_vector_cosine: float | None = None
    subspace_alignment: float | None = None
    chance_alignment: float | None = None
    num_vectors: int | None = None
    trajectory_evr: float | None = None
