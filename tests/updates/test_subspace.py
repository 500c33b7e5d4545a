import math

import numpy as np
import pytest
import torch

from effopd.errors import DataError
from effopd.updates import (
    displacement_cosine,
    gram_eigen,
    nested_alignment,
    singular_vectors,
    subspace_alignment,
    trajectory,
    vector_alignment,
)


def normal(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def orthonormal(rows, columns):
    return torch.linalg.qr(normal(rows, columns))[0]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("shape", [(60, 90), (90, 60), (60, 60)])
def test_vectors_agree_with_numpy_up_to_sign(shape):
    sigma = torch.cat([torch.tensor([100.0, 50, 20, 5, 1]), torch.full((40,), 1e-2)]).double()
    update = orthonormal(shape[0], 45) * sigma @ orthonormal(shape[1], 45).mT
    left, values, right = np.linalg.svd(update.numpy(), full_matrices=False)
    result = singular_vectors(update, k=5)
    np.testing.assert_allclose(result.singular_values, values[:5], rtol=1e-12)
    assert vector_alignment(result.left, torch.from_numpy(left)).numpy() == pytest.approx(np.ones(5), abs=1e-10)
    assert vector_alignment(result.right, torch.from_numpy(right.T)).numpy() == pytest.approx(np.ones(5), abs=1e-10)
    # Signs of the two sides belong together, and both are orthonormal.
    np.testing.assert_allclose(update @ result.right, result.left * result.singular_values, atol=1e-10)
    np.testing.assert_allclose(result.left.mT @ result.left, np.eye(5), atol=1e-12)
    np.testing.assert_allclose(result.right.mT @ result.right, np.eye(5), atol=1e-12)


def test_gaps_are_relative_to_the_nearest_neighbour():
    update = torch.diag(torch.tensor([10.0, 9.0, 4.0, 4.0, 1.0]))
    assert singular_vectors(update, k=3).relative_gap.tolist() == pytest.approx([0.1, 1 / 9, 0.0])
    assert singular_vectors(update, k=5).relative_gap.tolist() == pytest.approx([0.1, 1 / 9, 0.0, 0.0, 1.0])
    update = torch.diag(torch.tensor([10.0, 9.0, 4.0, 3.0, 1.0]))
    assert singular_vectors(update, k=3).relative_gap.tolist() == pytest.approx([0.1, 1 / 9, 0.25])


def test_signs_do_not_depend_on_the_sign_of_the_update():
    update = normal(30, 50)
    first, second = singular_vectors(update), singular_vectors(-update)
    np.testing.assert_allclose(first.left, second.left, atol=1e-12)
    np.testing.assert_allclose(first.right, -second.right, atol=1e-12)
    assert (first.left.gather(0, first.left.abs().argmax(0, keepdim=True)) > 0).all()


def test_only_resolved_vectors_are_returned():
    assert singular_vectors(normal(40, 3) @ normal(3, 60)).left.shape == (40, 3)
    assert singular_vectors(normal(7, 60)).right.shape == (60, 7)
    empty = singular_vectors(torch.zeros(4, 6))
    assert (empty.left.shape, empty.right.shape, empty.relative_gap.shape) == ((4, 0), (6, 0), (0,))


def test_an_existing_decomposition_is_used():
    update = normal(30, 50)
    shared = singular_vectors(update, k=4, eigen=gram_eigen(update, vectors=True))
    np.testing.assert_array_equal(shared.left, singular_vectors(update, k=4).left)
    for eigen in (gram_eigen(update), gram_eigen(update[:20], vectors=True)):
        with pytest.raises(DataError, match="vectors=True"):
            singular_vectors(update, eigen=eigen)
    with pytest.raises(DataError, match="k=0"):
        singular_vectors(update, k=0)


def test_principal_angles_ignore_the_basis_and_matching_vectors_do_not():
    basis = orthonormal(50, 6)
    rotated = basis @ orthonormal(6, 6)
    assert subspace_alignment(basis, rotated).numpy() == pytest.approx(np.ones(6))
    assert subspace_alignment(basis, basis[:, :2]).numpy() == pytest.approx(np.ones(2))
    swapped = basis[:, [1, 0, 2, 3, 4, 5]]
    assert vector_alignment(basis, -swapped).tolist() == pytest.approx([0, 0, 1, 1, 1, 1], abs=1e-12)


def test_a_known_angle():
    first, second = torch.eye(4)[:, :2], torch.eye(4)[:, :2].clone()
    second[:, 1] = torch.tensor([0, 0.6, 0.8, 0])
    assert subspace_alignment(first, second).tolist() == pytest.approx([1, 0.6])
    assert vector_alignment(first, second).tolist() == pytest.approx([1, 0.6])
    with pytest.raises(DataError, match="one length"):
        vector_alignment(first, torch.eye(5))


def test_displacement_cosine_is_that_of_the_concatenation():
    first, second = [normal(3, 4), normal(5)], [normal(3, 4), normal(5)]
    whole = [torch.cat([tensor.flatten() for tensor in tensors]) for tensors in (first, second)]
    expected = float(torch.cosine_similarity(*whole, dim=0))
    assert displacement_cosine(zip(first, second, strict=True)) == pytest.approx(expected)
    assert displacement_cosine([(first[0], -2 * first[0])]) == pytest.approx(-1)
    assert displacement_cosine([(first[0], torch.zeros(3, 4))]) is None
    with pytest.raises(DataError, match="same"):
        displacement_cosine([(first[0], first[1])])


def test_trajectory_undoes_signs_and_finds_the_plane_of_motion():
    plane, angles = orthonormal(30, 2), torch.linspace(0, 1, 8, dtype=torch.float64)
    path = torch.stack([angles.cos(), angles.sin()], dim=1) @ plane.mT
    signs = torch.tensor([1, -1, -1, 1, -1, 1, 1, -1])[:, None]
    result = trajectory(path * signs)
    np.testing.assert_allclose(result.aligned, path, atol=1e-15)
    assert result.explained_variance_ratio == pytest.approx(1)
    # The plane keeps distances.
    np.testing.assert_allclose(torch.cdist(result.coordinates, result.coordinates), torch.cdist(path, path), atol=1e-12)


def test_trajectory_of_noise_and_of_rest():
    assert trajectory(normal(10, 500)).explained_variance_ratio < 0.5
    assert trajectory(torch.ones(4, 5)).explained_variance_ratio is None
    assert trajectory(torch.ones(1, 5)).coordinates.tolist() == [[0, 0]]
    turned = orthonormal(500, 1).mT + 1e-9 * normal(6, 500)  # by less than float32 resolves
    rounded = trajectory(turned.float())
    assert rounded.explained_variance_ratio is None
    assert not rounded.coordinates.any()
    assert trajectory(turned + 1e-7 * normal(6, 500)).explained_variance_ratio < 0.9
    with pytest.raises(DataError, match="checkpoints"):
        trajectory(torch.ones(5))


def test_the_cosine_of_nan_is_nan():
    assert math.isnan(displacement_cosine([(torch.tensor([math.nan]), torch.ones(1))]))


@pytest.mark.parametrize("columns", [(6, 6), (6, 4), (1, 3), (0, 3)])
def test_the_nested_alignment_is_that_of_the_first_vectors(columns):
    first, second = (orthonormal(30, count) for count in columns)
    expected = [
        float(subspace_alignment(first[:, :k], second[:, :k]).square().mean().sqrt())
        for k in range(1, min(columns) + 1)
    ]
    assert nested_alignment(first, second).tolist() == pytest.approx(expected)
    assert nested_alignment(first, first).tolist() == pytest.approx([1] * columns[0])


def test_random_subspaces_align_by_chance():
    found = torch.stack([nested_alignment(orthonormal(50, 10), orthonormal(50, 10)).square() for _ in range(200)])
    assert found.mean(0).sqrt().numpy() == pytest.approx(np.sqrt(np.arange(1, 11) / 50), rel=0.15)
