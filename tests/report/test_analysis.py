import json
import math
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fabricated_analysis import DENSE, FUSED, HOSTILE, Fabricated, fabricate

from effopd.errors import DataError
from effopd.report import analysis, payload
from effopd.report.analysis import write_report
from effopd.report.figures import FIGURES
from effopd.report.payload import make_payload, script_json
from effopd.report.records import module_group, read_records
from effopd.report.series import MAX_POINTS, log_spaced, over_training, read_spectra, representatives, update_norms
from effopd.report.tables import NONE, _spread, make_tables, number, tables_markdown


def tables_of(out: Path) -> dict:
    return make_tables(read_records(out))


def payload_of(out: Path) -> dict:
    records = read_records(out)
    return json.loads(script_json(make_payload(records, read_spectra(records))))


def snapshot(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


class Elements(HTMLParser):
    """All start tags with their attributes, and the text of scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path]]:
    out = fabricate(tmp_path_factory.mktemp("analysis"))
    return out, write_report(out)


def test_everything_is_written_and_nothing_else(written: tuple[Path, list[Path]]) -> None:
    out, paths = written
    expected = {out / "figures" / f"{name}{suffix}" for name in FIGURES for suffix in (".svg", ".png")}
    assert set(paths) == expected | {out / "tables.md", out / "report.html"}
    assert len(paths) == len(set(paths))
    for path in paths:
        if path.suffix == ".svg":
            assert ElementTree.parse(path).getroot().tag.endswith("svg")
        elif path.suffix == ".png":
            assert path.read_bytes().startswith(b"\x89PNG")
    assert not [path for path in out.rglob("*") if ".tmp" in path.name]


def test_the_same_records_make_the_same_files(written: tuple[Path, list[Path]]) -> None:
    out, _ = written
    before = snapshot(out)
    write_report(out)
    assert snapshot(out) == before


@pytest.mark.parametrize(
    "plan",
    [
        Fabricated(runs=("one",), steps=(None,), layers=1, embeddings=False),
        Fabricated(runs=("one",), steps=(7,), modules=FUSED),
        Fabricated(runs=("a", "b"), steps=(1, 2, 3, 4), steps_of={"b": (5,)}, zero=("b",), layers=2),
        Fabricated(runs=("a", "b"), steps=(1, 2), steps_of={"b": (None, None, None)}, layers=2, tokens=2),
        Fabricated(runs=("zero",), zero=("zero",), layers=2),
        Fabricated(layers=2, num_experts=5),
        Fabricated(runs=("a",), steps=(1, 2), layers=80, modules={"mlp.up_proj": (8, 4)}),
    ],
    ids=["one checkpoint", "fused", "uneven runs", "no steps", "zeros", "experts", "80 layers"],
)
def test_every_kind_of_analysis_makes_a_report(plan: Fabricated, tmp_path: Path) -> None:
    out = fabricate(tmp_path / "out", plan)
    paths = write_report(out)
    drawn = {path.stem for path in paths if path.suffix == ".svg"}
    assert set(drawn) <= set(FIGURES)
    assert ("alignment" in drawn) == (len(plan.steps) > 1 and plan.zero != ("zero",))
    assert ("embedding_shift" in drawn) == plan.embeddings
    page = (out / "report.html").read_text()
    assert "NaN" not in script_json(payload_of(out))
    assert page.count("<figure ") + page.count('class="absent"') == 11
    assert page.count('class="absent"') == 0 or "Not drawn: " in page


def test_matrices_that_stand_still_or_have_no_trajectory(tmp_path: Path) -> None:
    out = fabricate(tmp_path / "out", Fabricated(layers=2))
    paths, updates = (pd.read_parquet(out / f"{name}.parquet") for name in ("trajectories", "updates"))
    still = (paths["run"] == "rl") & ~paths["parameter"].str.contains("q_proj")
    paths.loc[still, ["pc1", "pc2"]] = 0.0
    paths.loc[still, ["tsne1", "tsne2"]] = np.nan
    paths[still | (paths["run"] == "opd")].to_parquet(out / "trajectories.parquet")
    updates.loc[updates["run"] == "rl", "trajectory_evr"] = np.nan
    updates.to_parquet(out / "updates.parquet")
    write_report(out)
    text = (out / "figures" / "trajectory.svg").read_text()
    for note in ("EVR", "does not move", "no trajectory"):
        assert note in text
    assert {each["evr"] for each in payload_of(out)["trajectories"]} == {0.85, None}


def test_a_single_checkpoint_is_said_instead_of_drawn(tmp_path: Path) -> None:
    out = fabricate(tmp_path / "out", Fabricated(runs=("one",), steps=(3,), layers=1))
    write_report(out)
    assert "single checkpoint" in (out / "report.html").read_text()
    assert "Every run has a single checkpoint" in (out / "tables.md").read_text()
    assert not (out / "figures" / "update_norm.svg").exists()


def test_figures_without_records_any_more_go_and_other_files_stay(tmp_path: Path) -> None:
    out = fabricate(tmp_path / "out", Fabricated(layers=1, steps=(1,)))
    write_report(out)
    mine = out / "figures" / "mine.png"
    mine.write_bytes(b"mine")
    for path in (out / "spectra").rglob("*.safetensors"):
        path.unlink()
    (out / "embedding_tokens.parquet").unlink()
    write_report(out)
    assert not (out / "figures" / "spectra.svg").exists()
    assert not (out / "figures" / "embedding_shift.png").exists()
    assert mine.read_bytes() == b"mine"


def test_a_failure_leaves_the_earlier_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = fabricate(tmp_path / "out", Fabricated(layers=1, steps=(1,)))
    write_report(out)
    before = snapshot(out)
    fabricate(out, Fabricated(layers=1, steps=(1,), seed=1))
    records = {name for name in before if not name.startswith("figures") and name not in ("report.html", "tables.md")}

    def fail(*_: object) -> str:
        raise RuntimeError("no space left")

    monkeypatch.setattr(analysis, "make_html", fail)
    with pytest.raises(RuntimeError, match="no space"):
        write_report(out)
    after = snapshot(out)
    assert after.keys() == before.keys()
    assert {name: after[name] for name in after if name not in records} == {
        name: before[name] for name in before if name not in records
    }


# Wrong directories


def test_a_directory_that_is_no_analysis(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no analysis\.json; expected .*effopd analyze.*run the analysis"):
        write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_damaged_records(tmp_path: Path) -> None:
    out = fabricate(tmp_path / "out", Fabricated(layers=1))
    frame = pd.read_parquet(out / "updates.parquet")
    frame.drop(columns=["kind", "rank"]).to_parquet(out / "updates.parquet")
    with pytest.raises(DataError, match="lacks the columns kind, rank"):
        write_report(out)
    frame.iloc[:0].to_parquet(out / "updates.parquet")
    with pytest.raises(DataError, match="has no rows"):
        write_report(out)
    (out / "updates.parquet").write_bytes(b"half of a file")
    with pytest.raises(DataError, match="not a Parquet file"):
        write_report(out)
    frame.to_parquet(out / "updates.parquet")
    (out / "spectra" / "rl" / "checkpoint-4.safetensors").write_bytes(b"half of a file")
    with pytest.raises(DataError, match="cannot be read as spectra"):
        write_report(out)
    (out / "analysis.json").write_text("{")
    with pytest.raises(DataError, match="not JSON"):
        write_report(out)
    (out / "analysis.json").write_text("[]")
    with pytest.raises(DataError, match="no JSON object"):
        write_report(out)


# Numbers


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


# What the interactive report holds


@pytest.mark.parametrize("size", [0, 1, 2, 63, 64, 65, 1000, 20000])
def test_log_spaced_indices(size: int) -> None:
    indices = log_spaced(size)
    assert len(indices) <= MAX_POINTS
    assert (np.diff(indices) > 0).all()
    assert indices[0] == 1
    assert indices[-1] == max(size, 1)


def test_spectra_are_those_of_the_last_checkpoint(tmp_path: Path) -> None:
    records = read_records(fabricate(tmp_path / "out"))
    spectra = read_spectra(records)
    last = records.matrices.query("checkpoint == 4").set_index(["run", "parameter"])
    assert len(spectra) == len(last) == 2 * 4 * len(DENSE)
    for each in spectra:
        assert each.values[0] == pytest.approx(last.loc[(each.run, each.parameter), "spectral_norm"])
        assert each.indices[-1] == each.size


def test_of_many_experts_the_extremes_and_the_median_are_pictured(tmp_path: Path) -> None:
    records = read_records(fabricate(tmp_path / "out", Fabricated(runs=("a",), layers=2, num_experts=9)))
    chosen = representatives(records)
    assert chosen.groupby(["layer", "group"]).size().to_dict()[(0.0, "mlp.experts.up_proj[*]")] == 3
    assert (chosen.groupby(["layer", "group"]).size() <= 3).all()
    experts = records.matrices.query("checkpoint == 4 and layer == 1 and group == 'mlp.experts.up_proj[*]'")
    of = chosen.query("layer == 1 and group == 'mlp.experts.up_proj[*]'")["effective_rank"]
    assert sorted(of) == pytest.approx(
        [experts["effective_rank"].min(), experts["effective_rank"].median(), experts["effective_rank"].max()]
    )


def test_columns_are_as_long_as_the_records(tmp_path: Path) -> None:
    out = fabricate(tmp_path / "out")
    rows = payload_of(out)["rows"]
    matrices = read_records(out).updates.query("cols > 1")
    for column in rows.values():
        assert len(column["codes"] if isinstance(column, dict) else column) == len(matrices)
    assert rows["effective_rank"] == [
        None if math.isnan(value) else pytest.approx(value, rel=1e-4) for value in matrices["effective_rank"]
    ]
    decoded = [rows["parameter"]["names"][code] for code in rows["parameter"]["codes"]]
    assert decoded == list(matrices["parameter"])


def test_too_many_rows_become_means_over_layer_and_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = fabricate(tmp_path / "out", Fabricated(runs=("a",), layers=2, num_experts=6, steps=(1, 2)))
    monkeypatch.setattr(payload, "MAX_ROWS", 50)
    page = payload_of(out)
    assert page["aggregated"] == len(read_records(out).updates.query("cols > 1"))
    assert sum(page["rows"]["matrices"]) == page["aggregated"]
    assert sorted(set(page["rows"]["matrices"])) == [1, 6]
    write_report(out)
    assert "their means over" in (out / "report.html").read_text()


# Text that comes from checkpoints


@pytest.fixture(scope="module")
def hostile_page(tmp_path_factory: pytest.TempPathFactory) -> str:
    plan = Fabricated(
        runs=(HOSTILE, "b|c\n<!-- ${x} {{records}}"),
        layers=1,
        modules={f"mlp.up_proj{HOSTILE}": (32, 32), "attn.q\u2028<!--<script>": (32, 32)},
        token_text=HOSTILE + "\u2028\u2029\ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16"),
    )
    out = fabricate(tmp_path_factory.mktemp("hostile"), plan)
    write_report(out)
    text = (out / "tables.md").read_text()
    assert "<img" not in text
    assert "<!--" not in text
    return (out / "report.html").read_text()


def test_hostile_names_make_no_elements(hostile_page: str, written: tuple[Path, list[Path]]) -> None:
    found = Elements(hostile_page).found
    assert not [tag for tag, _ in found if tag == "img"]
    assert not [name for _, attributes in found for name in attributes if name.startswith("on")]
    ordinary = Elements((written[0] / "report.html").read_text()).found
    assert [tag for tag, _ in found if tag == "script"] == [tag for tag, _ in ordinary if tag == "script"]


def test_records_in_the_page_are_json_without_markup(hostile_page: str) -> None:
    block = re.search(r'<script type="application/json" id="records">(.*?)</script>', hostile_page, re.S)
    assert block
    assert not re.search(r"[<>&\u2028\u2029]", block[1])
    data = json.loads(block[1])
    assert data["runs"][0] == HOSTILE
    assert data["runs"][1].endswith("{{records}}")
    assert any(HOSTILE in token for of in data["tokens"] for token in of["text"])


def test_the_page_asks_for_nothing(hostile_page: str) -> None:
    found = Elements(hostile_page).found
    assert not [a for _, a in found if a.get("src")]
    assert all(a["href"] == "data:," or (a["href"] or "").startswith("#") for _, a in found if "href" in a)
    (policy,) = [a["content"] for tag, a in found if tag == "meta" and "http-equiv" in a]
    assert policy
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-eval" not in policy
    assert "unsafe-inline" not in policy.split("style-src")[0]


def test_headings_go_down_one_step_at_a_time(hostile_page: str) -> None:
    levels = [int(tag[1]) for tag, _ in Elements(hostile_page).found if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(later <= earlier + 1 for earlier, later in pairwise(levels))
