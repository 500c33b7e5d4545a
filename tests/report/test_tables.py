"""The numbers of the report, and the order that they come in."""

import json
import math
from pathlib import Path

import pandas as pd
import pytest
from fabricated_analysis import DENSE, Fabricated, fabricate, payload_of, tables_of

from effopd.report.analysis import write_report
from effopd.report.records import module_group, read_records
from effopd.report.series import over_training, update_norms
from effopd.report.tables import NONE, _spread, number, tables_markdown


def test_the_spectral_table_is_the_mean_over_matrices_of_the_last_checkpoint(tmp_path: Path) -> None:
    out = fabricate(tmp_path / "out")
    frame = pd.read_parquet(out / "updates.parquet")
    for cells in tables_of(out)["spectral"].rows:
        rows = frame[(frame["run"] == cells[0]) & (frame["step"] == 50) & frame["effective_rank"].notna()]
        assert cells[1:4] == ("50", "28", "0")
        mean, deviation = rows["effective_rank"].mean(), rows["effective_rank"].std(ddof=1)
        assert cells[5] == f"{number(mean)} ± {number(deviation, 3)}"
        assert cells[4].startswith(number(100 * rows["spectral_to_frobenius"].mean()))
    by_kind = tables_of(out)["spectral_by_kind"].rows
    assert [(row[0], row[1], row[3]) for row in by_kind[:2]] == [("opd", "attention", "16"), ("opd", "mlp", "12")]


def test_unmoved_matrices_count_in_norms_and_not_in_ratios(tmp_path: Path) -> None:
    out = fabricate(tmp_path / "out", Fabricated(runs=("zero",), zero=("zero",), layers=2))
    (row,) = tables_of(out)["spectral"].rows
    assert row[2:] == ("14", "14", NONE, "0 ± 0", NONE, "0 ± 0", "0 ± 0")
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
    rows = update_norms(read_records(fabricate(tmp_path / "out")))
    for _, of in rows.groupby(["run", "checkpoint"]):
        total = of.loc[of["kind"] == "all", "norm"].item()
        assert math.isclose((of.loc[of["kind"] != "all", "norm"] ** 2).sum(), total**2, rel_tol=1e-9)


def test_quartiles_hold_the_mean_of_equal_values(tmp_path: Path) -> None:
    records = read_records(fabricate(tmp_path / "out"))
    last = over_training(records, "subspace_alignment").query("checkpoint == 4")
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
    rows = read_records(out).updates.query("run == 'rl' and checkpoint == 1")
    assert rows["parameter"].iloc[0] == "model.embed_tokens.weight"
    assert rows["layer"].dropna().is_monotonic_increasing
    assert list(rows.query("layer == 3 and cols > 1")["module"]) == list(DENSE)
