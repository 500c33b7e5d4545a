"""Points, captions, tables and figures of a made-up sweep, of which all numbers are known."""

import html
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.container import ErrorbarContainer
from report.fabricated_analysis import Fabricated, fabricate
from report.fabricated_sweep import CURVES, SWEEPS, write_sweep
from scipy.stats import t as student_t

from effopd.errors import DataError
from effopd.interventions.realised import WARN_ERROR
from effopd.report.analysis import write_report
from effopd.report.sweep import (
    is_off,
    read_sweep,
    sweep_captions,
    sweep_points,
    sweep_section,
    sweep_tables,
    write_sweep_report,
)
from effopd.report.sweep.figures import draw_sweep
from effopd.report.sweep.precision import MAX_ERROR, percent


def chosen(frame: pd.DataFrame, **values: Any) -> pd.DataFrame:
    return frame[np.logical_and.reduce([frame[name] == value for name, value in values.items()])]


def test_a_point_of_one_run_has_the_interval_over_problems(tmp_path: Path) -> None:
    records = read_sweep(write_sweep(tmp_path / "out"))
    place = {"sweep": "update_norm", "run": "GRPO $x$", "kind": "scale", "value": 0.5}
    (point,) = chosen(sweep_points(records), **place).to_dict("records")
    mean = chosen(records.results, **place)["mean"].mean()  # of two seeds of the sampling
    assert [point[name] for name in ("accuracy", "accuracy_low", "accuracy_high")] == pytest.approx(
        [mean, mean - 0.1, mean + 0.1]
    )
    assert (point["num_training_seeds"], point["num_seeds"], point["num_problems"]) == (1, 2, 50)


def test_a_point_of_several_runs_has_the_wider_of_both_intervals(tmp_path: Path) -> None:
    records = read_sweep(write_sweep(tmp_path / "out"))
    place = {"sweep": "update_norm", "run": "OPD", "kind": "scale", "value": 0.5}
    (point,) = chosen(sweep_points(records), **place).to_dict("records")
    runs = chosen(records.results, **place).groupby("training_seed")["mean"].mean()
    width = student_t.ppf(0.975, 2) * runs.std(ddof=1) / np.sqrt(3)
    assert width > 0.1
    expected = [runs.mean(), max(0, runs.mean() - width), min(1, runs.mean() + width)]
    assert [point[name] for name in ("accuracy", "accuracy_low", "accuracy_high")] == pytest.approx(expected)
    assert (point["x"], point["x_low"], point["x_high"]) == pytest.approx((0.6, 0.5, 0.7))
    same = chosen(records.results, **place).index
    records.results.loc[same, ["mean", "low", "high"]] = (0.5, 0.45, 0.6)  # as for the base: runs that are one model
    (point,) = chosen(sweep_points(records), **place).to_dict("records")
    assert (point["accuracy_low"], point["accuracy_high"]) == pytest.approx((0.45, 0.6))


@pytest.mark.parametrize("kl", [True, False])
def test_every_point_of_every_figure_has_an_error_bar(tmp_path: Path, kl: bool) -> None:
    records = read_sweep(write_sweep(tmp_path / "out", kl=kl))
    points = sweep_points(records)
    for name, entry in records.sweeps.items():
        figure = draw_sweep(entry, points[points["sweep"] == name], records.runs)
        bars = [bar for axes in figure.axes for bar in axes.containers if isinstance(bar, ErrorbarContainer)]
        lines = [line for axes in figure.axes for line in axes.lines if line.get_marker() not in ("None", "|", "_")]
        assert bars and all(bar.has_yerr for bar in bars)
        assert len(bars) == len(lines)
        assert all(len(bar.lines[2][-1].get_segments()) == len(bar.lines[0].get_xdata()) for bar in bars)
    assert len(figure.axes) == 1
    matching = draw_sweep(records.sweeps["norm_matching"], points[points["sweep"] == "norm_matching"], records.runs)
    assert len(matching.axes) == (4 if kl else 2)


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("update_norm", ("scale", "checkpoint")),
        ("sliding_window", ("mlp", "attention")),
        ("top_bottom", ("top", "bottom")),
        ("mine", ("scale",)),
    ],
)
def test_curves_go_through_the_points_of_their_panel(tmp_path: Path, name: str, kinds: tuple[str, ...]) -> None:
    records = read_sweep(write_sweep(tmp_path / "out"))
    points = chosen(sweep_points(records), sweep=name)
    panels = [axes for axes in draw_sweep(records.sweeps[name], points, records.runs).axes if axes.get_xlabel()]
    assert all(low >= 0 and high <= 1 for low, high in (axes.get_ylim() for axes in panels))
    for axes, kind in zip(panels, kinds, strict=True):
        bars = [bar for bar in axes.containers if isinstance(bar, ErrorbarContainer)]
        for bar, run in zip(bars, records.runs, strict=True):
            of = chosen(points, kind=kind, run=run).sort_values("x")
            np.testing.assert_array_equal(bar.lines[0].get_xydata(), of[["x", "accuracy"]])
            ends = [segment[:, 1] for segment in bar.lines[2][-1].get_segments()]
            np.testing.assert_allclose(ends, of[["accuracy_low", "accuracy_high"]])


def test_a_curve_of_the_kl_ends_where_it_is_zero(tmp_path: Path) -> None:
    out = write_sweep(tmp_path / "out")
    results = pd.read_parquet(out / "results.parquet")
    zero = (results["sweep"] == "norm_matching") & (results["kind"] == "norm-match") & (results["value"] == 20)
    results.loc[zero, ["kl_per_token", "kl_low", "kl_high"]] = 0.0
    results.to_parquet(out / "results.parquet")
    records = read_sweep(out)
    points = chosen(sweep_points(records), sweep="norm_matching")
    above, _, below, _ = draw_sweep(records.sweeps["norm_matching"], points, records.runs).axes
    curve = below.containers[0].lines[0]
    np.testing.assert_allclose(curve.get_xydata(), [[10, 0.2], [20, np.nan]])
    assert below.get_yscale() == "log" and below.get_ylim()[0] == pytest.approx(0.1)
    assert below.get_xlim() == above.get_xlim()  # step 20 keeps its place
    (caption,) = [each for each in sweep_captions(records, points) if each.sweep == "norm_matching"]
    assert "a curve ends where the KL is 0" in caption.text


def test_captions_say_what_the_error_bars_are(tmp_path: Path) -> None:
    out = write_sweep(tmp_path / "out", kl=False)
    records = read_sweep(out)
    texts = {caption.name: caption.text for caption in sweep_captions(records, sweep_points(records))}
    assert set(texts) == set(CURVES)
    for text in texts.values():
        assert "up to 3 training seeds" in text and "50 problems" in text and "2 seeds of the sampling" in text
    assert "KL to the teacher was not measured" in texts["norm_matching"]
    assert "Norms are those of OPD" in texts["top_bottom"]
    alone = records.results[records.results["run"] != "OPD"]
    alone.to_parquet(out / "results.parquet")
    records = read_sweep(out)
    assert "of one training run" in sweep_captions(records, sweep_points(records))[0].text


def test_points_that_lack_seeds_are_told(tmp_path: Path) -> None:
    out = write_sweep(tmp_path / "out")
    results = pd.read_parquet(out / "results.parquet")
    results[(results["training_seed"] < 2) | (results["kind"] != "top")].to_parquet(out / "results.parquet")
    records = read_sweep(out)
    points = sweep_points(records)
    texts = {caption.name: caption.text for caption in sweep_captions(records, points)}
    assert "3 of the 16 points lack training seeds" in texts["top_bottom"]
    assert "lack training seeds" not in texts["update_norm"]
    assert "| 2 of 3 |" in sweep_tables(records, points)["top_bottom"].markdown()


@pytest.mark.parametrize(
    ("error", "below", "said"),
    [
        (1e-5, "error of the update: at most 0.002 %", "at most 0.021 % of its norm."),
        (0.0, "error of the update: none", "at most 0 % of its norm."),
        (
            0.04,
            "at most: 8 % (OPD), 8 % (GRPO",
            "84 % of its norm (OPD, checkpoint 20), and by more than 5 % in 8 of the",
        ),
        (None, "", ""),
    ],
)
def test_the_error_of_the_update_is_beside_every_curve(
    tmp_path: Path, error: float | None, below: str, said: str
) -> None:
    out = write_sweep(tmp_path / "out", error=error)
    records = read_sweep(out)
    points = sweep_points(records)
    for name, entry in records.sweeps.items():
        panels = draw_sweep(entry, points[points["sweep"] == name], records.runs).axes
        labels = [axes.get_xlabel() for axes in panels if "error of the update" in axes.get_xlabel()]
        assert len(labels) == (0 if error is None else 1 if name in ("embedding_replacement", "mine") else 2)
    scaled = draw_sweep(records.sweeps["update_norm"], chosen(points, sweep="update_norm"), records.runs).axes[0]
    assert below in scaled.get_xlabel()
    text = sweep_captions(records, points)[0].text
    assert said in text and ("realised" in text) == (error is not None)
    table = sweep_tables(records, points)["update_norm"]
    assert ("its error" in table.header) == (error is not None)
    if error is not None:
        cells = [row[4] for row in table.rows if row[1:3] == ("scale", "0.5")]
        assert set(cells) == {f"{150 * error:.2g} %"}
    write_sweep_report(out)
    section, page = sweep_section(out), (out / "sweep.md").read_text()
    for where in (section, page):
        assert ("held, and computed, in float32" in where and "25 % (OPD)" in where) == (error is not None)


def test_what_is_off() -> None:
    assert is_off(0.051, 1.0) and is_off(None, 1.0)
    assert not is_off(0.05, 1.0) and not is_off(0.0, 0.0) and not is_off(None, 0.0)
    assert MAX_ERROR == WARN_ERROR


def test_the_report_is_written_with_a_figure_for_each_sweep_and_task(tmp_path: Path) -> None:
    out = write_sweep(tmp_path / "out", tasks=("world", "a/b.jsonl"))
    written = write_sweep_report(out)
    figures = {
        f"{name}-{task}.{suffix}"
        for name in CURVES
        for task in ("world", "a_b_jsonl")
        for suffix in ("svg", "pdf", "png")
    }
    assert {path.name for path in written} == figures | {"sweep.md"}
    assert all(path.stat().st_size for path in written)
    text = (out / "sweep.md").read_text()
    assert text.count("![") == 2 * len(CURVES) and "nats / token" in text


def test_records_that_are_not_there_are_named(tmp_path: Path) -> None:
    out = write_sweep(tmp_path / "out")
    (out / "results.parquet").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"results\.parquet cannot be read"):
        read_sweep(out)


def test_the_section_of_the_report_holds_every_figure(tmp_path: Path) -> None:
    directory = write_sweep(tmp_path / "sweep")
    write_sweep_report(directory)
    section = sweep_section(directory)
    assert section.count('src="data:image/svg+xml;base64,') == len(SWEEPS)
    assert section.count("<table") == len(SWEEPS)
    for caption in sweep_captions(read_sweep(directory), sweep_points(read_sweep(directory))):
        assert html.escape(caption.title) in section
    (directory / "figures" / "top_bottom.svg").unlink()
    with pytest.raises(DataError, match=r"top_bottom\.svg is missing"):
        sweep_section(directory)


def test_the_report_has_a_section_about_a_sweep_where_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("effopd.report.analysis.write.draw_figures", lambda *_: [])
    analysis, sweep = fabricate(tmp_path / "analysis", Fabricated(layers=1)), write_sweep(tmp_path / "sweep")
    write_sweep_report(sweep)
    without = write_report(analysis)[-1].read_text()
    assert 'href="#sweep"' not in without
    report = write_report(analysis, sweep)[-1].read_text()
    assert 'href="#sweep"' in report
    assert sweep_section(sweep) in report


def test_names_with_dots_and_names_that_differ_in_punctuation_have_figures_of_their_own(tmp_path: Path) -> None:
    out = write_sweep(tmp_path / "out", tasks=("a b", "a-b"))
    sweep = json.loads((out / "sweep.json").read_text())
    for entry in sweep["spec"]["sweeps"]:
        entry["name"] = f"{entry.get('name', entry['preset'])}.0"
    results = pd.read_parquet(out / "results.parquet")
    results.assign(sweep=results["sweep"] + ".0").to_parquet(out / "results.parquet")
    (out / "sweep.json").write_text(json.dumps(sweep))
    written = write_sweep_report(out)
    assert len({path.name for path in written}) == len(written) == 2 * 3 * len(CURVES) + 1
    links = re.findall(r"!\[.*\]\((.*)\)", (out / "sweep.md").read_text())
    assert len(set(links)) == 2 * len(CURVES) and all((out / link).exists() for link in links)


def test_a_whole_is_a_hundred_percent() -> None:
    assert [percent(share) for share in (1.0, 0.996, 0.994, 0.0123)] == ["100 %", "100 %", "99 %", "1.2 %"]
