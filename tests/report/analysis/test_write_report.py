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
from PIL import Image
from report.fabricated_analysis import DENSE, FUSED, HOSTILE, Fabricated, fabricate, payload_of

from effopd.errors import DataError
from effopd.report.analysis import payload, write, write_report
from effopd.report.analysis.figures import FIGURE_NAMES
from effopd.report.analysis.payload import script_json
from effopd.report.analysis.records import read_analysis
from effopd.report.analysis.series import MAX_POINTS, log_spaced, read_spectra, representatives
from effopd.report.drawing import SUFFIXES


def draw_only(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    monkeypatch.setattr("effopd.report.analysis.figures.FIGURE_NAMES", names)


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
    expected = {out / "figures" / f"{name}{suffix}" for name in FIGURE_NAMES for suffix in SUFFIXES}
    assert set(paths) == expected | {out / "tables.md", out / "report.html"}
    assert len(paths) == len(set(paths))
    for path in paths:
        if path.suffix == ".svg":
            assert ElementTree.parse(path).getroot().tag.endswith("svg")
        elif path.suffix == ".png":
            with Image.open(path) as image:
                assert image.info["dpi"] == pytest.approx((300, 300), abs=0.1)
        elif path.suffix == ".pdf":
            assert path.read_bytes().startswith(b"%PDF")
    assert not [path for path in out.rglob("*") if ".tmp" in path.name]


def test_the_same_records_make_the_same_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw_only(monkeypatch, "alignment", "effective_rank", "trajectory")
    out = fabricate(tmp_path / "out", Fabricated(layers=1))
    write_report(out)
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
    assert set(drawn) <= set(FIGURE_NAMES)
    assert ("alignment" in drawn) == (len(plan.steps) > 1 and plan.zero != ("zero",))
    assert ("embedding_shift" in drawn) == plan.embeddings
    page = (out / "report.html").read_text()
    assert "NaN" not in script_json(payload_of(out))
    assert page.count("<figure ") + page.count('class="absent"') == 14
    assert page.count('class="absent"') == 0 or "Not drawn: " in page


def test_matrices_that_stand_still_or_have_no_trajectory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw_only(monkeypatch, "trajectory")
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


def test_an_analysis_without_alignments_by_rank_has_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw_only(monkeypatch, "alignment_by_rank", "alignment")
    out = fabricate(tmp_path / "out", Fabricated(layers=1))
    (out / "alignments.parquet").unlink()
    assert {path.stem for path in write_report(out) if path.suffix == ".pdf"} == {"alignment"}
    assert "the analysis holds no alignment by rank" in (out / "report.html").read_text()
    assert "alignments.parquet" in (out / "tables.md").read_text()


def test_tiny_shifts_survive_the_rounding_of_the_page(tmp_path: Path) -> None:
    out = fabricate(tmp_path / "out", Fabricated(layers=1))
    tokens = pd.read_parquet(out / "embedding_tokens.parquet")
    tokens["cosine"] = 1 - 1e-7 * (1 - tokens["cosine"])
    tokens["trained_x"], tokens["trained_y"] = tokens["base_x"] + 1e-7, tokens["base_y"]
    tokens.to_parquet(out / "embedding_tokens.parquet")
    for each in payload_of(out)["tokens"]:
        assert each["factor"] == 1_000_000
        assert each["dx"] == [pytest.approx(1e-7, rel=1e-4)] * 60
        assert 1e-10 < 1 - each["mean"] < 1e-8
        assert len(set(each["edges"])) == len(each["edges"])


def test_a_single_checkpoint_is_said_instead_of_drawn(tmp_path: Path) -> None:
    out = fabricate(tmp_path / "out", Fabricated(runs=("one",), steps=(3,), layers=1))
    write_report(out)
    assert "single checkpoint" in (out / "report.html").read_text()
    assert "Every run has a single checkpoint" in (out / "tables.md").read_text()
    assert not (out / "figures" / "update_norm.svg").exists()


def test_figures_without_records_any_more_go_and_other_files_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw_only(monkeypatch, "spectra", "embedding_shift")
    out = fabricate(tmp_path / "out", Fabricated(layers=1, steps=(1,)))
    write_report(out)
    assert (out / "figures" / "spectra.svg").exists()
    assert (out / "figures" / "embedding_shift.png").exists()
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
    draw_only(monkeypatch, "layer_norms")
    out = fabricate(tmp_path / "out", Fabricated(layers=1, steps=(1,)))
    write_report(out)
    before = snapshot(out)
    fabricate(out, Fabricated(layers=1, steps=(1,), seed=1))
    records = {name for name in before if not name.startswith("figures") and name not in ("report.html", "tables.md")}

    def fail(*_: object) -> str:
        raise RuntimeError("no space left")

    monkeypatch.setattr(write, "make_html", fail)
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
    with pytest.raises(DataError, match="cannot be read as JSON"):
        write_report(out)
    (out / "analysis.json").write_text("[]")
    with pytest.raises(DataError, match="expected a JSON object"):
        write_report(out)


# What the interactive report holds


@pytest.mark.parametrize("size", [0, 1, 2, 63, 64, 65, 1000, 20000])
def test_log_spaced_indices(size: int) -> None:
    indices = log_spaced(size)
    assert len(indices) <= MAX_POINTS
    assert (np.diff(indices) > 0).all()
    assert indices[0] == 1
    assert indices[-1] == max(size, 1)


def test_spectra_are_those_of_the_last_checkpoint(tmp_path: Path) -> None:
    records = read_analysis(fabricate(tmp_path / "out"))
    spectra = read_spectra(records)
    last = records.matrices.query("checkpoint == 4").set_index(["run", "parameter"])
    assert len(spectra) == len(last) == 2 * 4 * len(DENSE)
    for each in spectra:
        assert each.values[0] == pytest.approx(last.loc[(each.run, each.parameter), "spectral_norm"])
        assert each.indices[-1] == each.size


def test_of_many_experts_the_extremes_and_the_median_are_pictured(tmp_path: Path) -> None:
    records = read_analysis(fabricate(tmp_path / "out", Fabricated(runs=("a",), layers=2, num_experts=9)))
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
    matrices = read_analysis(out).updates.query("cols > 1")
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
    draw_only(monkeypatch)
    page = payload_of(out)
    assert page["aggregated"] == len(read_analysis(out).updates.query("cols > 1"))
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
