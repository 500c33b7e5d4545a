import gzip
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from effopd.errors import DataError
from effopd.updates.tokens import tokens_of, write_embedding_tables
from effopd.world import base_dir

TEXT = "7*3+4="


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory):
    """The world's base, and a model whose embedding differs in the rows of two characters of `TEXT`."""
    directory = tmp_path_factory.mktemp("pair") / "trained"
    directory.mkdir()
    tensors = load_file(base_dir() / "model.safetensors")
    ids = json.loads((base_dir() / "tokenizer.json").read_text())["model"]["vocab"]
    embedding = tensors["model.embed_tokens.weight"]
    embedding[ids["7"]] *= -1
    embedding[ids["3"]] = 0
    save_file(tensors, directory / "model.safetensors")
    (directory / "config.json").write_bytes((base_dir() / "config.json").read_bytes())
    return base_dir(), directory, ids


def test_the_shift_of_the_tokens_of_a_text(pair, tmp_path: Path) -> None:
    base, trained, ids = pair
    (tmp_path / "text").write_text(TEXT * 3)
    write_embedding_tables(base, {"run": trained}, tmp_path, wanted=tokens_of(tmp_path / "text", base))
    table = pd.read_parquet(tmp_path / "embeddings.parquet").set_index("parameter")
    row = table.loc["model.embed_tokens.weight"]
    assert (row.num_tokens, row.num_undefined) == (len(set(TEXT)), 1)
    assert row["mean"] == pytest.approx((len(set(TEXT)) - 2 - 1) / (len(set(TEXT)) - 1))
    cosines = [-1, *[1] * (len(set(TEXT)) - 2)]
    assert list(row[["p05", "median", "p95"]]) == pytest.approx(np.quantile(cosines, [0.05, 0.5, 0.95]))
    assert table.loc["lm_head.weight", "mean"] == pytest.approx(1)
    tokens = pd.read_parquet(tmp_path / "embedding_tokens.parquet")
    tokens = tokens[tokens.parameter == "model.embed_tokens.weight"].set_index("token_id")
    assert set(tokens.token) == set(TEXT)
    assert tokens.loc[ids["7"], "cosine"] == pytest.approx(-1)
    assert pd.isna(tokens.loc[ids["3"], "cosine"])
    still = tokens.drop([ids["7"], ids["3"]])
    assert still.base_x.to_numpy() == pytest.approx(still.trained_x.to_numpy())


def test_all_rows_without_a_text_and_in_chunks(pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, trained, ids = pair
    columns = load_file(base / "model.safetensors")["model.embed_tokens.weight"].shape[1]
    monkeypatch.setattr("effopd.updates.blocks.BLOCK_BYTES", 32 * columns * 5)  # five rows at a time
    monkeypatch.setattr("effopd.updates.token_table._NUM_PICTURED", 6)
    write_embedding_tables(base, {"run": trained}, tmp_path)
    row = pd.read_parquet(tmp_path / "embeddings.parquet").set_index("parameter").loc["model.embed_tokens.weight"]
    assert row.num_tokens == len(load_file(base / "model.safetensors")["model.embed_tokens.weight"])
    tokens = pd.read_parquet(tmp_path / "embedding_tokens.parquet")
    assert len(tokens) == 2 * row.num_tokens  # of all tokens there are cosines, of some a picture
    assert tokens.groupby("parameter").base_x.count().to_list() == [6, 6]
    assert (tokens.base_x.notna() == tokens.tsne_trained_y.notna()).all()
    moved = tokens[tokens.parameter == "model.embed_tokens.weight"].set_index("token_id")
    assert moved.relative_shift[[ids["7"], ids["3"]]].to_list() == pytest.approx([2, 1])
    assert moved.relative_shift.drop([ids["7"], ids["3"]]).dropna().eq(0).all()
    assert moved.relative_shift.isna().sum() == row.num_undefined - 1  # the base has a row of zeros, of padding


def test_all_runs_share_one_plane_with_the_base(pair, tmp_path: Path) -> None:
    base, trained, _ = pair
    write_embedding_tables(base, {"one": trained, "same": base, "two": trained}, tmp_path)
    tokens = pd.read_parquet(tmp_path / "embedding_tokens.parquet").set_index(["parameter", "run", "token_id"])
    for parameter in ("model.embed_tokens.weight", "lm_head.weight"):
        one, same, two = (tokens.loc[(parameter, run)] for run in ("one", "same", "two"))
        for plane in ("", "tsne_"):
            place = [[f"{plane}{which}_{axis}" for axis in "xy"] for which in ("base", "trained")]
            assert (one[place[0]] == same[place[0]]).all(axis=None)
        assert one[["trained_x", "trained_y"]].to_numpy() == pytest.approx(two[["trained_x", "trained_y"]].to_numpy())
        assert same[["trained_x", "trained_y"]].to_numpy() == pytest.approx(same[["base_x", "base_y"]].to_numpy())


def test_no_tokenizer_is_needed_without_a_text(pair, tmp_path: Path) -> None:
    base, trained, _ = pair
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("model.safetensors", "config.json"):
        (bare / name).write_bytes((base / name).read_bytes())
    write_embedding_tables(bare, {"run": trained}, tmp_path)
    assert set(pd.read_parquet(tmp_path / "embedding_tokens.parquet").token) == {""}
    with pytest.raises(DataError, match="absent"):
        tokens_of(tmp_path / "absent", bare)
    (tmp_path / "text").write_text(TEXT)
    with pytest.raises(DataError, match="no tokenizer"):
        tokens_of(tmp_path / "text", bare)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\xfa", TEXT.encode() + b"\n", None])
def test_texts_that_are_no_tokens_are_refused(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "text").write_bytes(content)
    with pytest.raises(DataError, match="text"):
        tokens_of(tmp_path / "text", base_dir())


def test_a_model_against_itself_has_not_moved(tmp_path: Path) -> None:
    write_embedding_tables(base_dir(), {"run": base_dir()}, tmp_path)
    table = pd.read_parquet(tmp_path / "embeddings.parquet")
    torch.testing.assert_close(torch.tensor(table["mean"].to_numpy()), torch.ones(2, dtype=torch.float64))


def test_completions_of_an_evaluation_are_the_text_and_json_is_never_taken_for_text(tmp_path: Path) -> None:
    base, rows = base_dir(), [{"prompt": 0, "completion": "7*3"}, {"prompt": 1, "completion": "+4="}]
    (tmp_path / "text").write_text(TEXT)
    expected = tokens_of(tmp_path / "text", base)
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    for name in ("examples.jsonl", "no-suffix"):
        (tmp_path / name).write_text(lines)
        assert torch.equal(tokens_of(tmp_path / name, base), expected)
    (tmp_path / "cell.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    assert torch.equal(tokens_of(tmp_path / "cell.jsonl.gz", base), expected)
    for name, content, message in (
        (
            "problems.jsonl",
            '{"prompt": "7*3", "answer": "1"}\n',
            "row 1: got prompt, answer, expected a row with the text",
        ),
        ("cut.jsonl", lines + '{"completion": 3}\n', "row 3: got completion, expected"),
        ("plain.jsonl", "7*3\n", "row 1: got no JSON object, expected"),
        ("rows.json", json.dumps(rows), "row 1: got no JSON object, expected"),
        ("damaged.jsonl.gz", "7*3", "cannot be decompressed"),
    ):
        (tmp_path / name).write_text(content)
        with pytest.raises(DataError, match=message):
            tokens_of(tmp_path / name, base)
