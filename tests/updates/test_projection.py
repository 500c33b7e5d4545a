import numpy as np
import pytest
import torch

from effopd.errors import DataError
from effopd.updates import pca, tsne, tsne_of_authors


def test_pca_agrees_with_scikit_learn():
    from sklearn.decomposition import PCA

    torch.manual_seed(0)
    points = torch.randn(40, 12, dtype=torch.float64) * torch.logspace(0, -2, 12)
    coordinates, share = pca(points)
    model = PCA(n_components=2).fit(points.numpy())
    assert share == pytest.approx(model.explained_variance_ratio_.sum())
    np.testing.assert_allclose(coordinates.abs(), np.abs(model.transform(points.numpy())), atol=1e-12)


def test_pca_of_few_points_and_of_one_dimension():
    assert pca(torch.ones(1, 3))[0].tolist() == [[0, 0]]
    coordinates, share = pca(torch.tensor([[0.0], [2.0]]))
    np.testing.assert_allclose(coordinates.abs(), [[1, 0], [1, 0]])
    assert share == pytest.approx(1)


@pytest.mark.parametrize("num_points", [2, 3, 5, 40])
def test_tsne_of_any_number_of_points_is_deterministic(num_points):
    torch.manual_seed(0)
    points = torch.randn(num_points, 8)
    first = tsne(points)
    assert first.shape == (num_points, 2)
    assert first.isfinite().all()
    assert torch.equal(first, tsne(points))


def test_the_largest_loading_of_a_component_is_positive():
    torch.manual_seed(0)
    points = torch.randn(40, 12, dtype=torch.float64) * torch.logspace(0, -2, 12)
    for each in (points, -points):
        coordinates, _ = pca(each)
        loadings = (each - each.mean(0)).mT @ coordinates
        assert (loadings.gather(0, loadings.abs().argmax(0, keepdim=True)) > 0).all()


@pytest.mark.parametrize(("num_points", "perplexity"), [(2, 1), (7, 2), (40, 13), (100, 30)])
def test_the_perplexity_is_that_of_the_number_of_points(num_points, perplexity, monkeypatch):
    from sklearn import manifold

    asked = []

    class Watched(manifold.TSNE):
        def fit_transform(self, points):
            asked.append(self.perplexity)
            return points[:, :2]

    monkeypatch.setattr(manifold, "TSNE", Watched)
    tsne(torch.randn(num_points, 8))
    assert asked == [perplexity]


@pytest.mark.parametrize("num_points", [2, 5, 6, 20, 40])
def test_the_authors_recipe_is_theirs(num_points):
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE
    from sklearn.preprocessing import StandardScaler

    torch.manual_seed(0)
    points = torch.randn(num_points, 8, dtype=torch.float64).cumsum(0) * torch.logspace(0, -3, 8)
    points[:, 3] = 1.5  # an entry that does not move
    reduced = PCA(n_components=2).fit_transform(StandardScaler().fit_transform(points.numpy()))
    np.testing.assert_allclose(pca(_standardised(points))[0].abs(), np.abs(reduced), atol=1e-10)
    picture = tsne_of_authors(points)
    perplexity = min(max(5, num_points / 3), num_points - 1)
    signs = np.sign(pca(_standardised(points))[0].numpy() * reduced).sum(axis=0)
    assert set(np.abs(signs)) == {num_points}
    model = TSNE(perplexity=perplexity, init="pca", random_state=0, method="exact")
    expected = model.fit_transform(reduced * np.sign(signs))
    np.testing.assert_allclose(picture, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())


def _standardised(points):
    centred = points - points.mean(0)
    return centred / torch.where(centred.std(0, unbiased=False) > 0, centred.std(0, unbiased=False), 1.0)


def test_tsne_separates_clusters():
    torch.manual_seed(0)
    points = torch.randn(40, 8) + 50 * (torch.arange(40) < 20)[:, None]
    picture = tsne(points)
    assert torch.cdist(picture[:20], picture[20:]).min() > torch.cdist(picture[:20], picture[:20]).median()


def test_tsne_of_points_that_coincide():
    assert tsne(torch.full((5, 3), 0.1)).tolist() == [[0, 0]] * 5
    assert tsne_of_authors(torch.full((5, 3), 0.1)).tolist() == [[0, 0]] * 5


@pytest.mark.parametrize("points", [torch.ones(3), torch.ones(0, 3), torch.tensor([[1.0, torch.nan], [0, 0]])])
def test_refuses_what_is_not_points(points):
    with pytest.raises(DataError, match="a point a row"):
        pca(points)


def test_tsne_refuses_one_point():
    with pytest.raises(DataError, match="two points"):
        tsne(torch.ones(1, 3))
    with pytest.raises(DataError, match="two points"):
        tsne_of_authors(torch.ones(1, 3))
