import math

import pytest
import torch

from effopd.errors import DataError
from effopd.updates import embedding, embedding_picture, embedding_shift


@pytest.fixture
def rows():
    torch.manual_seed(0)
    return torch.randn(50, 8)


def test_known_angles():
    base = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [2.0, 2.0]])
    trained = torch.tensor([[5.0, 0.0], [-1.0, 0.0], [0.0, 3.0], [1.0, 0.0]])
    shift = embedding_shift(base, trained)
    assert shift.cosine.tolist() == pytest.approx([1, -1, 0, math.sqrt(0.5)])
    assert shift.mean == pytest.approx(math.sqrt(0.5) / 4)
    assert shift.num_undefined == 0


def test_cosine_ignores_scale_and_an_unmoved_embedding_scores_1(rows):
    assert embedding_shift(rows, 3 * rows).cosine.numpy() == pytest.approx(1)
    assert embedding_shift(rows.bfloat16(), rows.bfloat16()).cosine.max() <= 1


def test_chunks_do_not_matter(rows, monkeypatch):
    trained = rows + torch.randn(50, 8)
    whole = embedding_shift(rows, trained)
    monkeypatch.setattr(embedding, "_CHUNK_ROWS", 7)
    assert torch.equal(embedding_shift(rows, trained).cosine, whole.cosine)
    ids = torch.tensor([40, 3, 3])
    assert torch.equal(embedding_shift(rows, trained, ids).cosine, whole.cosine[ids])


def test_rows_of_zeros_have_no_direction_and_are_counted(rows):
    trained = rows.clone()
    trained[3] = 0
    shift = embedding_shift(rows, trained)
    assert shift.cosine.isnan().nonzero().tolist() == [[3]]
    assert shift.num_undefined == 1
    assert shift.mean == pytest.approx(1)
    assert embedding_shift(rows, torch.zeros(50, 8)).mean is None


def test_vocabularies_of_different_size_need_ids(rows):
    with pytest.raises(DataError, match=r"torch\.arange\(40\)"):
        embedding_shift(rows, rows[:40])
    assert embedding_shift(rows, rows[:40], torch.arange(40)).mean == pytest.approx(1)


@pytest.mark.parametrize("ids", [[50], [-1], [], [[1, 2]]])
def test_refuses_ids_outside_the_vocabulary(rows, ids):
    with pytest.raises(DataError, match=r"\[0, 50\)"):
        embedding_shift(rows, rows, torch.tensor(ids, dtype=torch.int64))


def test_refuses_different_dimensions(rows):
    with pytest.raises(DataError, match="one dimension"):
        embedding_shift(rows, rows[:, :4])


@pytest.mark.parametrize("method", ["pca", "tsne"])
def test_pictures_share_one_plane(rows, method):
    base, trained, other = embedding_picture(rows, [rows + 5, rows], torch.arange(10), method=method)
    assert base.shape == trained.shape == (10, 2)
    if method == "pca":
        torch.testing.assert_close(other, base)
        torch.testing.assert_close(trained - base, (trained - base)[:1].expand(10, 2), rtol=0, atol=1e-5)
