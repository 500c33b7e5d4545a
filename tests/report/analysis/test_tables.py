"""The numbers of the report, and the order that they come in."""

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from report.fabricated_analysis import DENSE, Fabricated, fabricate, payload_of, tables_of

from effopd.report.analysis import write_report
from effopd.report.analysis.records import module_group, read_analysis
from effopd.report.analysis.series import mean_over_training, norms_by_layer, norms_over_training
from effopd.report.analysis.tables import _spread, tables_markdown
from effopd.report.table import NONE, Table, number


def test_the_spectral_table_is_the_mean_over_matrices_of_the_last_checkpoint(tmp_path: Path) -> None:
    out = fabricate(tmp_path / "out")
    frame = pd.read_parquet(out / "updates.parquet")
    for cells in tables_of(out)["spectral"].rows:
        rows = frame[(frame["run"] == cells[0]) & (frame["step"] == 50) & frame["effective_rank"].notna()]
        assert cells[1:4] == ("50", "28", "0")
        mean, deviation = rows["effective_rank"].mean(), rows["effective_rank"].std(ddof=1)
        assert cells[6] == f"{number(mean)} ± {number(deviation, 3)}"
        assert cells[4].startswith(number(rows["spectral_norm"].mean()))
        assert cells[5].startswith(number(100 * rows["spectral_to_frobenius"].mean()))
    by_kind = tables_of(out)["spectral_by_kind"].rows
    assert [(row[0], row[1], row[3]) for row in by_kind[:2]] == [("opd", "attention", "16"), ("opd", "mlp", "12")]


def test_unmoved_matrices_count_in_norms_and_not_in_ratios(tmp_path: Path) -> None:
    out = fabricate(tmp_path / "out", Fabricated(runs=("zero",), zero=("zero",), layers=2))
    assert {row[3:] for row in tables_of(out)["alignment"].rows} == {("0", NONE, NONE, NONE, NONE)}
    (row,) = tables_of(out)["spectral"].rows
    assert row[2:] == ("14", "14", "0 ± 0", NONE, "0 ± 0", NONE, "0 ± 0", "0 ± 0")
    assert any("exactly as in the base" in row[0] and row[1] == "14" for row in tables_of(out)["unknown"].rows)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([1, 1 - 9e-9], "1.0000 ± 0.0000"),
        ([12345.6, 12345.7], "12,346 ± 0"),
        ([1, 1.001], "1.000 ± 7.07e-04"),
        ([-0.3, 0.3], "0 ± 0.424"),
        ([2e-9, 2e-9 + 1e-15], "2.000e-09 ± 7.07e-16"),
        ([0.5], "0.5000"),
    ],
)
def test_spreads_below_what_is_printed_are_zero(values: list[float], text: str) -> None:
    assert _spread(pd.Series(values)) == text


def test_module_shares_add_up_and_the_least_moved_comes_first(tmp_path: Path) -> None:
    rows = tables_of(fabricate(tmp_path / "out", Fabricated(runs=("a",), num_experts=4)))["modules"].rows
    assert sum(float(row[4]) for row in rows) == pytest.approx(100, abs=0.5)
    relative = [float(row[5]) for row in rows]
    assert relative == sorted(relative)
    experts = [row for row in rows if row[1] == "mlp.experts.down_proj[*]"]
    assert [row[3] for row in experts] == ["16"]


def test_norms_of_kinds_add_up_in_squares(tmp_path: Path) -> None:
    rows = norms_over_training(read_analysis(fabricate(tmp_path / "out")))
    for _, of in rows.groupby(["run", "checkpoint"]):
        total = of.loc[of["kind"] == "all", "norm"].item()
        assert math.isclose((of.loc[of["kind"] != "all", "norm"] ** 2).sum(), total**2, rel_tol=1e-9)


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs, one with fewer checkpoints than the other."""
    plan = Fabricated(layers=2, steps_of={"rl": (10, 20, 30)})
    return fabricate(tmp_path_factory.mktemp("uneven"), plan)


def test_every_run_counts_at_its_own_last_checkpoint(uneven: Path) -> None:
    assert [(row[0], row[1]) for row in tables_of(uneven)["spectral"].rows] == [("opd", "50"), ("rl", "30")]


def test_the_norm_table_is_that_of_all_parameters(uneven: Path) -> None:
    frame = pd.read_parquet(uneven / "updates.parquet")
    for row in tables_of(uneven)["norms"].rows:
        of = frame[(frame["run"] == row[0]) & (frame["checkpoint"] == int(row[1]))]
        norms = {key: math.sqrt((of[key] ** 2).sum()) for key in ("frobenius_norm", "base_norm", "displacement_norm")}
        relative = norms["frobenius_norm"] / norms["base_norm"]
        assert row[4:7] == tuple(number(x) for x in (norms["frobenius_norm"], relative, norms["displacement_norm"]))
        assert row[7].split(" ")[0] == number(of["displacement_cosine"].mean())


def test_relative_columns(uneven: Path) -> None:
    rows = read_analysis(uneven).updates.query("parameter == 'model.layers.1.self_attn.k_proj.weight'")  # 32 x 64
    assert list(rows["effective_rank_share"]) == pytest.approx(list(rows["effective_rank"] / 32))
    assert list(rows["relative_update"]) == pytest.approx(list(rows["frobenius_norm"] / rows["base_norm"]))
    records = read_analysis(uneven)
    norms = norms_over_training(records).query("kind == 'attention'").set_index(["run", "checkpoint"])["relative"]
    of = records.updates.query("run == 'rl' and checkpoint == 1 and kind == 'attention'")
    squares = [(of[key] ** 2).sum() for key in ("frobenius_norm", "base_norm")]
    assert norms["rl", 1] == pytest.approx(math.sqrt(squares[0] / squares[1]))


def test_the_alignment_table_has_its_columns_in_order(uneven: Path) -> None:
    frame = pd.read_parquet(uneven / "updates.parquet")
    rows = tables_of(uneven)["alignment"].rows
    assert len(rows) == 5 + 3
    for row in rows:
        of = frame[(frame["run"] == row[0]) & (frame["checkpoint"] == int(row[1])) & frame["effective_rank"].notna()]
        columns = ("vector_alignment", "first_vector_cosine", "subspace_alignment", "chance_alignment")
        assert [cell.split(" ")[0] for cell in row[4:]] == [number(of[column].mean()) for column in columns]


def test_changed_entries_are_weighted_by_size(uneven: Path) -> None:
    frame = pd.read_parquet(uneven / "updates.parquet").query("run == 'rl' and checkpoint == 2")
    of = frame[frame["module"] == "self_attn.k_proj"]
    (row,) = [row for row in tables_of(uneven)["modules"].rows if row[:2] == ("rl", "self_attn.k_proj")]
    sizes = of["rows"] * of["cols"]
    assert row[6] == number(100 * (of["changed_fraction"] * sizes).sum() / sizes.sum(), 3)
    whole = 100 * (of["frobenius_norm"] ** 2).sum() / (frame["frobenius_norm"] ** 2).sum()
    assert row[4] == number(whole, 3)


def test_the_table_of_what_is_stored_takes_kinds_together(uneven: Path) -> None:
    table = tables_of(uneven)["stored"]
    frame = pd.read_parquet(uneven / "updates.parquet")
    run = table.rows[0][0]
    last = frame[(frame["run"] == run) & (frame["checkpoint"] == frame[frame["run"] == run]["checkpoint"].max())]
    assert [row[1] for row in table.rows if row[0] == run] == ["all", *dict.fromkeys(row[1] for row in table.rows[1:6])]
    for row in (row for row in table.rows if row[0] == run):
        of = last if row[1] == "all" else last[last["kind"] == row[1]]
        sizes, norms = (
            of["rows"] * of["cols"],
            [float(np.linalg.norm(of[name])) for name in ("frobenius_norm", "rounding_bound")],
        )
        changed = (of["changed_fraction"] * sizes).sum() / sizes.sum()
        assert row[2:] == ("bfloat16", number(100 * changed, 3), number(norms[0]), number(100 * norms[1] / norms[0], 3))


def test_the_embedding_table_has_its_columns_in_order(uneven: Path) -> None:
    frame = pd.read_parquet(uneven / "embeddings.parquet")
    for row in tables_of(uneven)["embeddings"].rows:
        last = frame[frame["run"] == row[0]].iloc[-1]
        assert row[5:] == tuple(number(last[column]) for column in ("mean", "p05", "median", "p95"))


def test_cells_of_tables_are_escaped() -> None:
    table = Table("key", "title", "note", ("run", "x"), (("a|b*_`[<b>]\\", "1"),))
    assert "| a\\|b\\*\\_\\`\\[&lt;b&gt;\\]\\\\ | 1 |" in table.markdown()
    assert '<td class="text">a|b*_`[&lt;b&gt;]' in table.html()


def test_matrices_of_the_page_have_their_layer_and_kind(uneven: Path) -> None:
    for name, layer, group, kind in zip(*payload_of(uneven)["matrices"], strict=True):
        assert name == f"model.layers.{layer}.{group}.weight"
        assert kind == ("mlp" if group.startswith("mlp") else "attention")


def test_layer_norms_are_the_roots_of_sums_of_squares(tmp_path: Path) -> None:
    out = fabricate(tmp_path / "out", Fabricated(layers=2))
    frame = pd.read_parquet(out / "updates.parquet")
    frame["frobenius_norm"] = frame["parameter"].map(
        {"model.layers.1.self_attn.q_proj.weight": 3.0, "model.layers.1.self_attn.k_proj.weight": 4.0}
    )
    frame.fillna({"frobenius_norm": 0.0}).to_parquet(out / "updates.parquet")
    norms = norms_by_layer(read_analysis(out)).set_index(["run", "layer", "kind"])["norm"]
    assert norms["rl", 1, "attention"] == 5
    assert norms.sum() == 2 * 5  # none outside the layers
    assert len(norms) == 2 * 2 * 3  # runs, layers, kinds


def test_layers_of_a_vision_tower_are_apart(tmp_path: Path) -> None:
    out = fabricate(tmp_path / "out", Fabricated(layers=2, modules={"visual.attn.qkv": (32, 32), **DENSE}))
    records = read_analysis(out)
    norms = norms_by_layer(records)
    assert {"attention", "visual attention"} < set(norms["kind"])
    rows = records.updates.query("run == 'rl' and checkpoint == 4 and layer == 1")
    assert list(rows["module"].head(8)) == [*DENSE, "input_layernorm"]
    squares = (rows[rows["module"].str.startswith("self_attn")]["frobenius_norm"] ** 2).sum()
    found = norms.query("run == 'rl' and layer == 1").set_index("kind")["norm"]
    assert found["attention"] == pytest.approx(math.sqrt(squares))
    assert found["visual attention"] == rows.query("module == 'visual.attn.qkv'")["frobenius_norm"].item()
    assert "visual attention" in {line["kind"] for line in payload_of(out)["layers"]}


@pytest.mark.parametrize(
    ("steps", "x"), [((10, 20, 30), "share"), ((10, 30, 20), "checkpoint"), ((5, 5), "checkpoint"), ((9,), "share")]
)
def test_steps_that_do_not_ascend_are_no_axis(steps: tuple[int, ...], x: str, tmp_path: Path) -> None:
    assert read_analysis(fabricate(tmp_path / "out", Fabricated(layers=1, steps_of={"rl": steps}))).x == x


def test_models_without_a_known_matrix_have_a_word_instead_of_an_empty_table(tmp_path: Path) -> None:
    tables = tables_of(fabricate(tmp_path / "out", Fabricated(layers=1, modules={"mixer.in_proj": (32, 32)})))
    for key in ("spectral", "spectral_by_kind"):
        assert tables[key].rows == ()
        assert tables[key].note.startswith("No attention or MLP matrix is known")
    assert "model.layers.0.mixer.in_proj.weight" in tables["unknown"].rows[0][2]


def test_a_run_of_the_bases_weights_is_named(tmp_path: Path) -> None:
    rows = tables_of(fabricate(tmp_path / "out", Fabricated(layers=1, zero=("rl",))))["unknown"].rows
    assert ("1", "rl") in [row[1:] for row in rows if "was the base given" in row[0]]


def test_quartiles_hold_the_mean_of_equal_values(tmp_path: Path) -> None:
    records = read_analysis(fabricate(tmp_path / "out"))
    last = mean_over_training(records, "subspace_alignment").query("checkpoint == 4")
    assert (last[["mean", "low", "high"]] == 1).all(axis=None)
    assert (last["matrices"] == 28).all()


def test_what_was_left_out_is_listed(tmp_path: Path) -> None:
    out = fabricate(tmp_path / "out", Fabricated(steps=(None, None), layers=1, embeddings=False))
    content = json.loads((out / "analysis.json").read_text())
    content["runs"][0]["ignored"] = ["vision.patch_embed.weight"]
    (out / "analysis.json").write_text(json.dumps(content))
    text = tables_markdown(tables_of(out))
    for expected in ("model.rotary\\_table", "vision.patch\\_embed.weight", "unknown step", "embeddings.parquet"):
        assert expected in text


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, NONE), (math.nan, NONE), (0.0, "0"), (1234.5678, "1,235"), (0.012345, "0.01235"), (1.5e-7, "1.500e-07")],
)
def test_numbers_have_four_significant_digits(value: float | None, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("module", "group"),
    [
        ("mlp.experts.down_proj[3]", "mlp.experts.down_proj[*]"),
        ("mlp.experts.17.up_proj", "mlp.experts.*.up_proj"),
        ("self_attn.q_proj", "self_attn.q_proj"),
        ("mlp.fc1", "mlp.fc1"),
    ],
)
def test_experts_make_one_group(module: str, group: str) -> None:
    assert module_group(module) == group


def test_the_embedding_table_comes_before_the_output_head(tmp_path: Path) -> None:
    out = fabricate(tmp_path / "out", Fabricated(layers=1, steps=(1,)))
    for name in ("embeddings", "embedding_tokens"):
        frame = pd.read_parquet(out / f"{name}.parquet")
        pd.concat([frame.assign(parameter="lm_head.weight"), frame]).to_parquet(out / f"{name}.parquet")
    rows = tables_of(out)["embeddings"].rows
    assert [row[1] for row in rows] == ["model.embed_tokens.weight"] * 2 + ["lm_head.weight"] * 2
    assert payload_of(out)["tokens"][0]["parameter"] == "model.embed_tokens.weight"
    write_report(out)


def test_modules_are_in_the_order_of_a_layer(tmp_path: Path) -> None:
    out = fabricate(tmp_path / "out", Fabricated(modules=dict(sorted(DENSE.items())), layers=12))
    rows = read_analysis(out).updates.query("run == 'rl' and checkpoint == 1")
    assert rows["parameter"].iloc[0] == "model.embed_tokens.weight"
    assert rows["layer"].dropna().is_monotonic_increasing
    assert list(rows.query("layer == 3 and cols > 1")["module"]) == list(DENSE)
