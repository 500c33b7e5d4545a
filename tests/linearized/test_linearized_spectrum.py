import json
import weakref
from collections.abc import Iterator

import pytest
import torch
from linearized.models import dense, flat, make_root, teacher_logits, tiny_model

from effopd.linearized import measures
from effopd.linearized.lanczos import Step, lanczos
from effopd.linearized.loss import descend, loss_along
from effopd.linearized.root import dot
from effopd.linearized.spectrum import (
    coordinates,
    find_spectrum,
    growth,
    predicted_displacement,
    tail_bound,
)

ROOT, TEACHER = make_root(), teacher_logits()
A, B = dense(tiny_model(0), TEACHER)
VALUES, VECTORS = (each.flip(-1) for each in torch.linalg.eigh(A))
SPECTRUM = find_spectrum(ROOT, ROOT.residual(TEACHER), num_steps=80, seed=0)
RANK = int(VALUES.gt(1e-9 * VALUES[0]).sum())


def symmetric(size: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    half = torch.randn(size, size, generator=generator, dtype=torch.float64)
    return half + half.T


def test_eigenvalues_and_shares_are_those_of_the_dense_matrix() -> None:
    assert 10 < RANK <= len(SPECTRUM.values)
    torch.testing.assert_close(SPECTRUM.values[:RANK], VALUES[:RANK], rtol=1e-8, atol=1e-10)
    shares = ((VECTORS.T @ B) ** 2).cumsum(0) / (B @ B)
    torch.testing.assert_close(SPECTRUM.shares[:RANK], shares[:RANK], rtol=0, atol=1e-8)
    assert (SPECTRUM.overlaps**2).sum().item() == pytest.approx((B @ B).item(), rel=1e-10)
    assert SPECTRUM.residuals[0] < 1e-10


@pytest.mark.parametrize("num_steps", [1, 2, 7, 1000])
def test_the_predicted_displacement_is_gradient_descent_on_the_dense_quadratic(num_steps: int) -> None:
    eta = 0.5 / VALUES[0].item()
    d = torch.zeros_like(B)
    for _ in range(num_steps):
        d = d - eta * (A @ d - B)
    predicted = predicted_displacement(ROOT, SPECTRUM, eta, num_steps)
    torch.testing.assert_close(flat(predicted), d, rtol=1e-8, atol=1e-8 * d.norm().item())


def test_a_short_krylov_space_is_exact_for_as_many_gradient_steps() -> None:
    short = find_spectrum(ROOT, ROOT.residual(TEACHER), num_steps=10, seed=0)
    eta, d = 0.5 / VALUES[0].item(), torch.zeros_like(B)
    for _ in range(5):
        d = d - eta * (A @ d - B)
    torch.testing.assert_close(flat(predicted_displacement(ROOT, short, eta, 5)), d, rtol=1e-8, atol=1e-9)


def test_the_tail_is_below_its_bound_and_that_of_the_dense_matrix() -> None:
    eta, steps, rank = 0.5 / VALUES[0].item(), 9, 4
    d = flat(predicted_displacement(ROOT, SPECTRUM, eta, steps))
    tail = (d - VECTORS[:, :rank] @ (VECTORS[:, :rank].T @ d)).norm().item()
    inside = coordinates(ROOT, SPECTRUM, predicted_displacement(ROOT, SPECTRUM, eta, steps), rank).norm().item()
    assert (d.norm().item() ** 2 - inside**2) ** 0.5 == pytest.approx(tail, rel=1e-7)
    assert tail <= tail_bound(SPECTRUM, eta, steps, rank)
    largest = max(abs((1 - (1 - eta * value) ** steps) / value) for value in VALUES[rank:RANK].tolist())
    outside = (B - VECTORS[:, :rank] @ (VECTORS[:, :rank].T @ B)).norm().item()
    assert (
        largest * outside * (1 - 1e-6) <= tail_bound(SPECTRUM, eta, steps, rank) <= eta * steps * outside * (1 + 1e-6)
    )


def test_growth_at_small_and_at_large_values() -> None:
    values = torch.tensor([0.0, 1e-14, 1e-6, 0.3, 1.9, 2.5], dtype=torch.float64)
    found = growth(values, 1.0, 10)
    assert found[0] == 10
    assert found[1].item() == pytest.approx(10, rel=1e-12)
    for value, each in zip(values[3:].tolist(), found[3:].tolist(), strict=True):
        assert each == pytest.approx((1 - (1 - value) ** 10) / value, rel=1e-12)
    assert found[2].item() == pytest.approx(10 - 45e-6, rel=1e-9)


def test_real_gradient_descent_starts_along_the_prediction_and_leaves_it_slowly() -> None:
    eta = 0.01 / VALUES[0].item()
    first, *_, last = descend(ROOT, TEACHER, eta, 5)
    torch.testing.assert_close(flat(first), eta * B, rtol=1e-9, atol=1e-12)
    predicted = flat(predicted_displacement(ROOT, SPECTRUM, eta, 5))
    assert (flat(last) - predicted).norm() < 0.05 * predicted.norm()


def test_the_quadratic_model_touches_the_loss_at_the_base() -> None:
    b = ROOT.pull(ROOT.residual(TEACHER))
    line = loss_along(ROOT, TEACHER, b, b, [0.0, 1e-4, 1e-3])
    assert line.quadratic[0] == line.true[0]
    curvature = (B @ A @ B).item()
    assert line.quadratic[2] == pytest.approx(line.true[0] - 1e-3 * dot(b, b) + 0.5e-6 * curvature, rel=1e-12)
    assert line.best_scale == pytest.approx(dot(b, b) / curvature, rel=1e-10)
    assert abs(line.quadratic[1] - line.true[1]) < 1e-2 * abs(line.true[1] - line.true[0])


@pytest.mark.parametrize("width", [1, 2, 3])
def test_lanczos_finds_all_eigenpairs_of_a_small_matrix(width: int) -> None:
    M = symmetric(12)
    start = torch.randn(width, 12, dtype=torch.float64)
    pairs = lanczos(lambda x: M @ x, start, 30)
    torch.testing.assert_close(pairs.values, torch.linalg.eigvalsh(M).flip(0))
    torch.testing.assert_close(M @ pairs.vectors, pairs.vectors * pairs.values)
    assert pairs.residuals.max() < 1e-9


def test_residuals_of_unfinished_eigenpairs_are_true() -> None:
    M = symmetric(40)
    pairs = lanczos(lambda x: M @ x, torch.randn(2, 40, dtype=torch.float64), 15)
    measured = (M @ pairs.vectors - pairs.vectors * pairs.values).norm(dim=0)
    torch.testing.assert_close(pairs.residuals, measured, rtol=1e-8, atol=1e-10)
    assert measured.max() > 0.1


def test_a_double_eigenvalue_is_found_twice_with_two_start_vectors() -> None:
    M = torch.diag(torch.tensor([5.0, 5.0, 2.0, 1.0, 0.5], dtype=torch.float64))
    pairs = lanczos(lambda x: M @ x, torch.randn(2, 5, dtype=torch.float64), 5)
    torch.testing.assert_close(pairs.values, M.diag())


def test_an_interrupted_lanczos_goes_on_to_the_bit() -> None:
    M, start = symmetric(20), torch.randn(2, 20, dtype=torch.float64)
    steps: list[Step] = []
    whole = lanczos(lambda x: M @ x, start, 12, on_step=steps.append)
    products = []

    def product(x: torch.Tensor) -> torch.Tensor:
        products.append(x)
        return M @ x

    def read() -> Iterator[Step]:
        vectors: list[weakref.ref] = []
        for column, vector in steps[:5]:
            assert sum(each() is not None for each in vectors) <= 1  # together they may fill the memory
            step = Step(column, vector.clone())
            vectors.append(weakref.ref(step.vector))
            yield step
            del step

    resumed = lanczos(product, start, 12, done=read())
    assert len(products) == 7
    for found, expected in zip(resumed, whole, strict=True):
        assert torch.equal(found, expected)


def test_start_vectors_that_depend_on_others_are_left_out() -> None:
    M = symmetric(6)
    x = torch.randn(6, dtype=torch.float64)
    pairs = lanczos(lambda each: M @ each, torch.stack([x, 2 * x, torch.zeros(6, dtype=torch.float64)]), 20)
    torch.testing.assert_close(pairs.values, torch.linalg.eigvalsh(M).flip(0))


def test_a_path_that_diverges_is_told_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measures, "STEP_SIZE", 1e6)
    monkeypatch.setattr(measures, "PATH_STEPS", (1, 4))
    monkeypatch.setattr(measures, "mean_loss", lambda *args: float("nan"))
    rows = measures.path_measures(ROOT, SPECTRUM, TEACHER)["rows"]
    assert [row["loss"] for row in rows] == [None, None]
    json.dumps(rows, allow_nan=False)
