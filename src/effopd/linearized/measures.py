"""What is reported of the local quadratic view, as JSON can hold it."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from scipy.stats import spearmanr
from torch import Tensor

from effopd.files import finite_or_none
from effopd.linearized.covariance import Spread, cosine, distillation, gradient_spread
from effopd.linearized.loss import descend, loss_along, mean_loss
from effopd.linearized.modules import norms_by_kind, norms_by_layer, norms_by_parameter
from effopd.linearized.root import GaussNewtonRoot, Vector, dot, plus
from effopd.linearized.spectrum import (
    Spectrum,
    coordinates,
    growth,
    predicted_displacement,
    tail_bound,
)
from effopd.linearized.unbiased import shares_at

SCALES = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
"""Multiples of a direction at which the true loss is measured."""
PATH_STEPS = (1, 2, 4, 8, 16, 32)
"""Numbers of gradient steps after which the predicted path is held against the real one."""
STEP_SIZE = 0.5
"""Step size of that path, in units of 1 / (largest eigenvalue)."""
TAIL_RANK = 10
RANKS = (1, 10, 50)

Json = dict[str, Any]


def driving_measures(b: Vector) -> Json:
    """Describe b: its norm, and that of its parts by kind of module, layer and parameter."""
    by_parameter = norms_by_parameter(b)
    return {
        "driving_norm": dot(b, b) ** 0.5,
        "driving_norm_by_kind": norms_by_kind(by_parameter),
        "driving_norm_by_layer": {str(layer): norm for layer, norm in norms_by_layer(by_parameter).items()},
        "driving_norm_by_parameter": by_parameter,
    }


def spectrum_measures(spectrum: Spectrum) -> Json:
    """Describe the eigenvalues of A and where b lies among them. Without a driving term, shares are None."""
    has_b = spectrum.overlaps.any().item()
    return {
        "eigenvalues": spectrum.values.tolist(),
        "eigenvalue_residuals": spectrum.residuals.tolist(),
        "driving_share": [finite_or_none(share) for share in spectrum.shares.tolist()],
        "rank_of_90_percent": spectrum.rank_of_share(0.9) if has_b else None,
        "fewest_for_90_percent": spectrum.fewest_for_share(0.9) if has_b else None,
    }


def spread_measures(spread: Spread, seed: int) -> Json:
    """Describe the gradients of single completions, with the trace's 95 % bootstrap interval over completions.

    `completions_for_unit_noise` is the number of completions whose mean gradient has a standard error as large as
    itself.
    """
    squared = spread.squared_mean
    return {
        "value": spread.trace,
        "interval": list(spread.interval(seed)),
        "squared_mean": squared,
        "relative_standard_error": finite_or_none(spread.standard_error),
        "completions_for_unit_noise": spread.trace / squared if squared > 0 else None,
    }


def unbiased_measures(root: GaussNewtonRoot, spectrum: Spectrum, fresh: GaussNewtonRoot, teacher_TV: Tensor) -> Json:
    """Describe where b lies by contexts of which A was not made, without the noise of their number.

    Args:
        root: The root of A.
        spectrum: Eigenpairs of A.
        fresh: The same model, linearised at other contexts than `root`; at least three of them.
        teacher_TV: The teacher's logits at these, divided by the temperature, [T, V].
    """
    spread = gradient_spread(fresh, distillation(teacher_TV))
    found = shares_at(root, spectrum, fresh, fresh.residual(teacher_TV), spread)
    return {
        "num_contexts": len(fresh.contexts.input_ids),
        "num_tokens": len(fresh.token_ids),
        "squared_norm": found.squared_norm,
        "relative_standard_error": finite_or_none(spread.standard_error),
        "driving_share": [finite_or_none(share) for share in found.shares.tolist()],
        "driving_share_error": [finite_or_none(error) for error in found.errors.tolist()],
        "rank_of_90_percent": found.rank_of_share(0.9),
    }


def path_measures(root: GaussNewtonRoot, spectrum: Spectrum, teacher_TV: Tensor) -> Json:
    """Hold the predicted path of gradient descent against the real one, at `STEP_SIZE` / (largest eigenvalue).

    The tail is what lies outside the first `TAIL_RANK` eigenvectors; its bound holds for the predicted path. What is
    not finite, because the real path diverges, is None.
    """
    eta = STEP_SIZE / spectrum.values[0].item()
    rank = min(TAIL_RANK, len(spectrum.values) - 1)
    rows = []
    for step, real in enumerate(descend(root, teacher_TV, eta, max(PATH_STEPS)), start=1):
        if step not in PATH_STEPS:
            continue
        predicted = predicted_displacement(root, spectrum, eta, step)
        real_norm, norm = dot(real, real) ** 0.5, dot(predicted, predicted) ** 0.5
        difference = plus(real, predicted, -1.0)
        inside = coordinates(root, spectrum, real, rank).norm().item()
        along = growth(spectrum.values, eta, step) * spectrum.overlaps
        row = {
            "real_norm": real_norm,
            "predicted_norm": norm,
            "cosine": cosine(real, predicted),
            "relative_error": dot(difference, difference) ** 0.5 / real_norm if real_norm else math.nan,
            "loss": mean_loss(root, teacher_TV, plus(root.parameters, real)),
            "loss_at_predicted": mean_loss(root, teacher_TV, plus(root.parameters, predicted)),
            "tail": max(real_norm**2 - inside**2, 0.0) ** 0.5,
            "predicted_tail": along[rank:].norm().item(),
            "tail_bound": tail_bound(spectrum, eta, step, rank),
        }
        rows.append({"step": step, **{name: finite_or_none(value) for name, value in row.items()}})
    return {"step_size": eta, "tail_rank": rank, "rows": rows}


def line_measures(root: GaussNewtonRoot, teacher_TV: Tensor, b: Vector, direction: Vector) -> Json:
    """Measure the true loss and the quadratic model along a direction, at `SCALES` times it."""
    line = loss_along(root, teacher_TV, b, direction, SCALES)
    true = [finite_or_none(loss) for loss in line.true]
    lowest = min((loss, scale) for loss, scale in zip(true, line.scales, strict=True) if loss is not None)
    return {**line._asdict(), "true": true, "best_true_scale": lowest[1]}


def update_measures(root: GaussNewtonRoot, spectrum: Spectrum, b: Vector, update: Vector) -> Json:
    """Hold what training did to the weights against b and the eigenvectors of A.

    `best_cosine` is the largest cosine between the update and the predicted path, over numbers of steps up to 2^20.
    `rank_correlation` is Spearman's, between the norms of b and of the update over the parameters.
    """
    products = coordinates(root, spectrum, update, len(spectrum.values))
    norm = dot(update, update) ** 0.5
    eta = STEP_SIZE / spectrum.values[0].item()
    along = {s: growth(spectrum.values, eta, s) * spectrum.overlaps for s in (2**power for power in range(21))}
    # An eigenvector and the update's product with it have the same arbitrary sign as the product with b.
    cosines = {s: ((each @ products) / each.norm() / norm).item() for s, each in along.items()}
    best = max(cosines, key=lambda s: cosines[s])
    of_b, of_update = norms_by_parameter(b), norms_by_parameter(update)
    correlation = spearmanr([of_b[name] for name in of_b], [of_update[name] for name in of_b]).statistic
    return {
        "norm": norm,
        "norm_by_kind": norms_by_kind(of_update),
        "norm_by_parameter": of_update,
        "cosine_to_driving": finite_or_none(cosine(update, b)),
        "best_cosine": finite_or_none(cosines[best]),
        "best_num_steps": best,
        "share_in_first": {
            str(rank): finite_or_none((products[:rank].norm().item() / norm) ** 2 if norm else None) for rank in RANKS
        },
        "rank_correlation": finite_or_none(float(correlation)),
    }


def update_of(root: GaussNewtonRoot, trained: Callable[[], Mapping[str, Tensor]]) -> Vector:
    """Subtract the base's parameters from those that a function returns."""
    parameters = trained()
    return {name: parameters[name].to(base) - base for name, base in root.parameters.items()}


def best_along_driving(root: GaussNewtonRoot, b: Vector) -> float:
    """Compute the step size eta at which the quadratic model is lowest along b: |b|^2 / (b^T A b); 0 if b is 0."""
    curvature = root.push(b).double().norm().item() ** 2
    return dot(b, b) / curvature if curvature > 0 else 0.0
