"""The record of one parameter of one checkpoint, which is a row of `updates.parquet`."""

from dataclasses import dataclass


@dataclass(frozen=True)
class UpdateRecord:
    """One parameter of one checkpoint, compared with the base.

    The update is dW = W - W_base, the difference of the stored values in float64. Everything from `spectral_norm` to
    `route` is described in `effopd.updates.Spectrum`, and None for a parameter that is no matrix. The alignments, from
    `vector_alignment` to `num_vectors`, compare a checkpoint t with the last one, T, of its run. They are None if one
    of the two updates is zero.

    Attributes:
        run: Name of the run.
        checkpoint: Index of the checkpoint in its run, from 0, in the order of training.
        step: Number of optimizer steps taken; None if it is not known.
        parameter: Name of the parameter. An index in brackets after it means one expert of a 3-D stack.
        layer: Index of the layer, as in `effopd.parameters.Location`; None outside the stack of layers.
        module: Path of the module, as in `Location`.
        kind: Role of the module, as in `Location`.
        rows: Number of rows, which is the first dimension.
        cols: Number of columns, which is the product of the other dimensions; 1 for a vector.
        frobenius_norm: `||dW||_F`.
        base_norm: `||W_base||_F`.
        changed_fraction: Share of the entries that differ, in [0, 1]. It is small where bf16 rounds updates away.
        dtype: Dtype that the trained parameter is stored in; None in analyses of earlier versions.
        rounding_bound: Norm of half a unit in the last place of each entry of W as it is stored: the most by which dW
            can differ from the update that training made, before W was rounded to `dtype`. 0 for the low-rank update of
            an adapter, which is stored by itself; None in analyses of earlier versions.
        spectral_norm: Largest singular value, sigma_1.
        spectral_to_frobenius: `sigma_1 / ||dW||_F`; None for an update of zeros, too.
        effective_rank: Exponential of the entropy of the normalized singular values; 0 for an update of zeros.
        top1pct_norm_ratio: Share of the norm in the first 1 % of the components; None for an update of zeros, too.
        rank: Number of singular values that count.
        relative_error: Estimated upper bound of the relative error of the numbers above.
        route: Way in which the singular values were found.
        displacement_norm: `||W_t - W_(t-1)||_F`; the base is what precedes the first checkpoint.
        displacement_cosine: Cosine between this displacement and the one before it. It is None at the first checkpoint,
            and if one of the two displacements is zero.
        vector_alignment: Mean of `|cos(u_k(t), u_k(T))|` over k = 1..`num_vectors`.
        first_vector_cosine: `|cos(u_1(t), u_1(T))|`.
        subspace_alignment: Root mean square of the cosines of the principal angles between the spans of the same
            vectors, in [0, 1].
        chance_alignment: Expected value of `subspace_alignment` for random subspaces, `sqrt(num_vectors / rows)`.
        num_vectors: Number of vectors that the alignments compare. It is 20, or less if one of the two updates has
            fewer singular values above some 1e-6 of sigma_1, below which they are not resolved.
        trajectory_evr: EVR_{0:2} of u_1 over the checkpoints of the run, the same for each of them. It is None for
            fewer than four checkpoints, and if u_1 moves no more than rounding to float32 moves it (see
            `effopd.updates.Trajectory`).
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
    dtype: str | None = None
    rounding_bound: float | None = None
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
