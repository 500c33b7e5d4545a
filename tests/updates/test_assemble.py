from dataclasses import fields

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from updates.runs_on_disk import MATRICES, matrix, random_tensors, write, write_run

from effopd.parameters import locate
from effopd.updates.assemble import _pictured, write_tables
from effopd.updates.jobs import measure_runs, vectors_file
from effopd.updates.records import UpdateRecord
from effopd.updates.subspace import trajectory


@pytest.fixture(scope="module")
def analysed(tmp_path_factory: pytest.TempPathFactory):
    directory = tmp_path_factory.mktemp("analysed")
    base, run, states = write_run(directory, 5)
    out = directory / "out"
    write_tables(measure_runs(base, {"long": run, "final": run / "checkpoint-50"}, out), out)
    return out, states


def test_the_table_has_every_column_and_row(analysed) -> None:
    out, _ = analysed
    table = pd.read_parquet(out / "updates.parquet")
    assert list(table.columns) == [field.name for field in fields(UpdateRecord)]
    assert len(table) == 6 * (len(MATRICES) + 2)
    assert not table.duplicated(["run", "checkpoint", "parameter"]).any()
    vectors = table[~table.parameter.isin(MATRICES)]
    assert vectors.effective_rank.isna().all()
    assert vectors.frobenius_norm.notna().all()


def test_alignment_rises_to_one_at_the_last_checkpoint(analysed) -> None:
    out, _ = analysed
    table = pd.read_parquet(out / "updates.parquet")
    mean = table[table.run == "long"].groupby("checkpoint").subspace_alignment.mean()
    assert mean.iloc[-1] == pytest.approx(1)
    assert mean.is_monotonic_increasing


def test_alignment_is_that_of_the_updates(analysed) -> None:
    out, states = analysed
    table = pd.read_parquet(out / "updates.parquet").set_index(["run", "checkpoint", "parameter"])
    name = "model.layers.0.mlp.up_proj.weight"
    lefts = [
        torch.linalg.svd(matrix(states[index], name) - matrix(states[0], name)).U[:, :16]
        for index in (2, len(states) - 1)
    ]
    row = table.loc["long", 1, name]
    cosines = (lefts[0] * lefts[1]).sum(dim=0).abs()
    assert row.vector_alignment == pytest.approx(float(cosines.mean()), abs=1e-5)
    assert row.first_vector_cosine == pytest.approx(float(cosines[0]), abs=1e-5)
    assert row.num_vectors == len(cosines)


def test_alignments_are_those_of_each_rank(analysed) -> None:
    out, _ = analysed
    table = pd.read_parquet(out / "updates.parquet").set_index(["run", "checkpoint", "parameter"])
    ranks = pd.read_parquet(out / "alignments.parquet").set_index(["run", "checkpoint", "parameter"])
    matrices = table[table.route.notna()]
    assert set(ranks.index) == set(matrices.index)
    for place, row in matrices.iterrows():
        count = int(row.num_vectors)
        vectors = [ranks.loc[place, f"vector_{rank}"] for rank in range(1, 21)]
        assert pd.notna(vectors).sum() == count
        assert sum(vectors[:count]) / count == pytest.approx(row.vector_alignment, abs=1e-6)
        assert vectors[0] == pytest.approx(row.first_vector_cosine, abs=1e-6)
        assert ranks.loc[place, f"subspace_{count}"] == pytest.approx(row.subspace_alignment, abs=1e-6)
        assert ranks.loc[place, "subspace_1"] == pytest.approx(vectors[0], abs=1e-6)
    name = "model.layers.0.mlp.up_proj.weight"
    lefts = [load_file(vectors_file(out, "long", index, name))["left"].double() for index in (1, 4)]
    angles = torch.linalg.svdvals(lefts[0][:, :5].mT @ lefts[1][:, :5])
    assert ranks.loc[("long", 1, name), "subspace_5"] == pytest.approx(float(angles.square().mean().sqrt()), abs=1e-6)


def test_trajectories_have_both_pictures_where_there_are_enough_checkpoints(analysed) -> None:
    out, _ = analysed
    paths = pd.read_parquet(out / "trajectories.parquet")
    assert set(paths.run) == {"long"}  # one checkpoint has no trajectory
    assert paths.pc1.notna().all()
    drawn = paths[paths.tsne1.notna()]
    dense = {name for name in MATRICES if ".layers." in name and "experts" not in name}
    assert set(drawn.parameter) == dense | {"model.layers.1.mlp.experts.down_proj[0]"}
    assert (drawn.authors_tsne1.notna() & drawn.authors_tsne2.notna()).all()
    assert drawn.groupby("parameter").size().eq(5).all()
    table = pd.read_parquet(out / "updates.parquet")
    evr = table[(table.run == "long") & table.parameter.isin(MATRICES)].groupby("parameter").trajectory_evr
    assert evr.nunique().eq(1).all()
    assert table[table.run == "final"].trajectory_evr.isna().all()


def test_of_experts_stored_apart_the_first_has_both_pictures() -> None:
    names = [f"model.layers.{layer}.mlp.experts.{expert}.up_proj.weight" for layer in range(4) for expert in range(3)]
    rows = [{"route": "gram", "parameter": name, **locate(name)._asdict()} for name in names]
    assert _pictured(rows) == {f"model.layers.{layer}.mlp.experts.0.up_proj.weight" for layer in range(4)}


def test_a_trajectory_is_that_of_the_left_vectors_over_checkpoints(analysed) -> None:
    out, _ = analysed
    for name, path in pd.read_parquet(out / "trajectories.parquet").groupby("parameter"):
        assert list(path.step) == [10, 20, 30, 40, 50]
        firsts = [load_file(vectors_file(out, "long", index, name))["left"][:, 0].double() for index in range(5)]
        expected = trajectory(torch.stack(firsts)).coordinates
        torch.testing.assert_close(torch.tensor(path[["pc1", "pc2"]].to_numpy()), expected)


def test_a_direction_that_stands_still_is_a_point(tmp_path) -> None:
    name, base = "model.layers.0.mlp.up_proj.weight", random_tensors(0)
    base[name].zero_()  # so that the update is stored exactly up to float32
    update = torch.outer(torch.randn(40), torch.randn(16))
    for index in range(1, 6):
        moved = {key: tensor + 0.1 * random_tensors(index)[key] for key, tensor in base.items()}
        write(tmp_path / "run" / f"checkpoint-{index}", moved | {name: index * update})
    out = tmp_path / "out"
    write_tables(measure_runs(write(tmp_path / "base", base), {"run": tmp_path / "run"}, out), out)
    rows = pd.read_parquet(out / "updates.parquet").query("parameter == @name")
    assert rows.first_vector_cosine.to_numpy() == pytest.approx(1)
    assert rows.trajectory_evr.isna().all()
    assert rows.num_vectors.eq(1).all()
    path = pd.read_parquet(out / "trajectories.parquet").query("parameter == @name")
    assert (path[["pc1", "pc2"]] == 0).all(axis=None)
    assert path.tsne1.isna().all()


def test_spectra_are_gathered_by_checkpoint(analysed) -> None:
    out, states = analysed
    found = load_file(out / "spectra" / "long" / "checkpoint-4.safetensors")
    assert found.keys() == set(MATRICES)
    for name in MATRICES:
        sigma = torch.linalg.svdvals(matrix(states[-1], name) - matrix(states[0], name))
        torch.testing.assert_close(found[name], sigma, rtol=1e-7, atol=1e-7)
