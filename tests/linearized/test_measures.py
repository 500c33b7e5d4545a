"""What is reported of the local quadratic view, against the dense matrix."""

import json
import math

import pytest
import torch
from linearized.models import dense, flat, make_root, teacher_logits, tiny_model, unflat

from effopd.linearized import measures
from effopd.linearized.covariance import Spread, distillation, gradient_spread
from effopd.linearized.loss import descend, loss_along, mean_loss
from effopd.linearized.root import plus
from effopd.linearized.spectrum import Spectrum, find_spectrum, predicted_displacement

ROOT, TEACHER = make_root(), teacher_logits()
A, MINUS_GRADIENT = dense(tiny_model(0), TEACHER)
VECTORS = torch.linalg.eigh(A).eigenvectors.flip(-1)
SPECTRUM = find_spectrum(ROOT, ROOT.residual(TEACHER), num_steps=80, seed=0)
B = ROOT.pull(ROOT.residual(TEACHER))


def outside(vector: torch.Tensor, rank: int) -> float:
    """The norm of what a vector has outside the first eigenvectors of the dense matrix."""
    return (vector - VECTORS[:, :rank] @ (VECTORS[:, :rank].T @ vector)).norm().item()


def test_the_path_is_held_against_the_real_one() -> None:
    found = measures.path_measures(ROOT, SPECTRUM, TEACHER)
    eta, rank = found["step_size"], found["tail_rank"]
    assert eta == pytest.approx(0.5 / SPECTRUM.values[0].item()) and rank == 10
    reals = [*descend(ROOT, TEACHER, eta, 32)]
    assert [row["step"] for row in found["rows"]] == [1, 2, 4, 8, 16, 32]
    for row in found["rows"]:
        predicted = predicted_displacement(ROOT, SPECTRUM, eta, row["step"])
        real, quadratic = flat(reals[row["step"] - 1]), flat(predicted)
        assert row["real_norm"] == pytest.approx(real.norm().item())
        assert row["predicted_norm"] == pytest.approx(quadratic.norm().item())
        assert row["cosine"] == pytest.approx((real @ quadratic / real.norm() / quadratic.norm()).item())
        assert row["relative_error"] == pytest.approx(((real - quadratic).norm() / real.norm()).item(), abs=1e-9)
        assert row["loss"] == pytest.approx(mean_loss(ROOT, TEACHER, plus(ROOT.parameters, reals[row["step"] - 1])))
        assert row["loss_at_predicted"] == pytest.approx(mean_loss(ROOT, TEACHER, plus(ROOT.parameters, predicted)))
        assert row["tail"] == pytest.approx(outside(real, rank), rel=1e-5)
        assert row["predicted_tail"] == pytest.approx(outside(quadratic, rank), rel=1e-5)
        assert row["predicted_tail"] <= row["tail_bound"]


def test_an_update_is_held_against_the_eigenvectors_and_the_path() -> None:
    eta = 0.5 / SPECTRUM.values[0].item()
    on_the_path = predicted_displacement(ROOT, SPECTRUM, eta, 8)
    found = measures.update_measures(ROOT, SPECTRUM, B, on_the_path)
    assert (found["best_num_steps"], found["best_cosine"]) == (8, pytest.approx(1.0))
    torch.manual_seed(0)
    update = torch.randn(len(A), dtype=torch.float64)
    found = measures.update_measures(ROOT, SPECTRUM, B, unflat(update, B))
    assert found["norm"] == pytest.approx(update.norm().item())
    cosine = (update @ MINUS_GRADIENT / update.norm() / MINUS_GRADIENT.norm()).item()
    assert found["cosine_to_driving"] == pytest.approx(cosine)
    for rank in (1, 10):
        share = 1 - (outside(update, rank) / update.norm().item()) ** 2
        assert found["share_in_first"][str(rank)] == pytest.approx(share, rel=1e-5)


def test_the_best_multiple_of_a_direction_is_that_of_the_lowest_loss() -> None:
    line = measures.line_measures(ROOT, TEACHER, B, B)
    losses = dict(zip(line["scales"], line["true"], strict=True))
    assert line["best_true_scale"] in losses
    assert losses[line["best_true_scale"]] == min(losses.values()) < losses[0.0]
    assert loss_along(ROOT, TEACHER, B, {name: -each for name, each in B.items()}, [1.0]).best_scale is None


def test_completions_for_unit_noise_are_the_trace_over_the_square_of_the_mean() -> None:
    spread = gradient_spread(ROOT, distillation(TEACHER))
    found = measures.spread_measures(spread, seed=0)
    assert spread.squared_mean > 0
    assert found["completions_for_unit_noise"] == pytest.approx(spread.trace / spread.squared_mean)
    assert found["relative_standard_error"] == pytest.approx(math.sqrt(found["completions_for_unit_noise"] / 3))


def test_the_interval_of_a_trace_is_seeded() -> None:
    torch.manual_seed(0)
    spread = Spread({}, torch.rand(30, dtype=torch.float64).tolist())
    assert spread.interval(0) == spread.interval(0) != spread.interval(1)


def test_the_fewest_eigenvectors_for_a_share_are_those_with_the_largest() -> None:
    values = torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64)
    spectrum = Spectrum(values, 0 * values, torch.tensor([1.0, -1.0, 3.0]), torch.eye(3), values)
    assert (spectrum.fewest_for_share(0.8), spectrum.rank_of_share(0.8)) == (1, 3)
    assert json.loads(json.dumps(measures.spectrum_measures(spectrum)))["fewest_for_90_percent"] == 2
