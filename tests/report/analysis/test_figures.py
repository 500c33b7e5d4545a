"""What the printed figures draw, held against the records."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from report.fabricated_analysis import FUSED, Fabricated, fabricate

from effopd.report.analysis import embeddings, figures, maps, trajectories
from effopd.report.analysis.records import AnalysisRecords, read_analysis
from effopd.report.analysis.series import magnification, read_spectra

DRAW = {
    "update_norm": figures.draw_update_norm,
    "concentration": figures.draw_concentration,
    "alignment": figures.draw_alignment,
    "alignment_by_rank": figures.draw_alignment_by_rank,
    "effective_rank": maps.draw_effective_rank,
    "first_vector": maps.draw_first_vector,
    "spectra": lambda records: figures.draw_spectra(records, read_spectra(records)),
    "tail_norm": lambda records: figures.draw_tail_norm(records, read_spectra(records)),
    "layer_norms": figures.draw_layer_norms,
    "trajectory": trajectories.draw_trajectories,
    "trajectory_evr": maps.draw_trajectory_evr,
    "trajectory_tsne": lambda records: trajectories.draw_trajectory_grid(records, "tsne"),
    "trajectory_tsne_authors": lambda records: trajectories.draw_trajectory_grid(records, "authors_tsne"),
    "embedding_shift": embeddings.draw_embedding_shift,
}
PLANS = {
    "one layer": Fabricated(runs=("a",), layers=1, modules={"self_attn.q_proj": (32, 32)}),
    "long names": Fabricated(runs=("a long name of a run, and more of it", "$b$"), layers=2, modules=FUSED),
    "many checkpoints": Fabricated(runs=("a",), layers=1, steps=range(10, 810, 10), modules={"mlp.fc1": (8, 4)}),
}


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> AnalysisRecords:
    return read_analysis(fabricate(tmp_path_factory.mktemp("figures")))


def drawn(name: str, records: AnalysisRecords) -> Figure:
    figure = DRAW[name](records)
    assert figure is not None
    return figure


def lines(axes: Axes) -> dict[str, tuple[list[float], list[float]]]:
    """Labelled lines, as x and y."""
    found = {str(line.get_label()): line for line in axes.lines if not str(line.get_label()).startswith("_")}
    return {label: (list(line.get_xdata()), list(line.get_ydata())) for label, line in found.items()}


def raw(records: AnalysisRecords, **values: object) -> pd.DataFrame:
    """Rows of the file that have these values."""
    rows = pd.read_parquet(records.directory / "updates.parquet")
    return rows[np.logical_and.reduce([rows[name] == value for name, value in values.items()])] if values else rows


def test_the_figures_are_those_that_are_written() -> None:
    assert set(DRAW) == set(figures.FIGURE_NAMES)


def test_the_norm_of_each_kind_is_drawn_over_the_share_of_training(records: AnalysisRecords) -> None:
    panels = drawn("update_norm", records).axes
    assert [axes.get_title(loc="left") for axes in panels] == ["all parameters", "attention", "MLP"]
    for axes, kinds in zip(panels, (None, ["attention"], ["mlp"]), strict=True):
        assert set(lines(axes)) == {"opd", "rl"}
        for run, (x, y) in lines(axes).items():
            rows = raw(records, run=run)
            rows = rows if kinds is None else rows[rows["kind"].isin(kinds)]
            norms = np.sqrt((rows["frobenius_norm"] ** 2).groupby(rows["step"]).sum())
            assert x == pytest.approx([0.2, 0.4, 0.6, 0.8, 1])
            assert y == pytest.approx(list(norms))


def test_without_steps_checkpoints_are_counted(tmp_path: Path) -> None:
    records = read_analysis(fabricate(tmp_path / "out", Fabricated(runs=("a",), steps=(None, None), layers=1)))
    axes = drawn("update_norm", records).axes[0]
    assert axes.get_xlabel() == "checkpoint"
    assert lines(axes)["a"][0] == [0, 1]


@pytest.mark.parametrize(
    ("name", "columns"),
    [
        ("concentration", ["spectral_norm", "spectral_to_frobenius", "effective_rank", "top1pct_norm_ratio"]),
        ("alignment", ["vector_alignment", "subspace_alignment"]),
    ],
)
def test_bands_hold_the_mean_and_the_quartiles_of_their_metric(
    name: str, columns: list[str], records: AnalysisRecords
) -> None:
    panels = drawn(name, records).axes
    assert len(panels) == len(columns)
    for axes, column in zip(panels, columns, strict=True):
        assert (axes.get_xlabel(), axes.get_xlim()) == ("share of training", (0, 1))
        for run, band in zip(("opd", "rl"), axes.collections, strict=True):
            rows = raw(records, run=run)
            rows = rows[rows["kind"].isin(["attention", "mlp"])].groupby("step")[column]
            x, y = lines(axes)[run]
            assert x == pytest.approx(rows.mean().index / 50)
            assert y == pytest.approx(list(rows.mean()))
            corners = {tuple(corner) for corner in np.round(band.get_paths()[0].vertices, 9)}
            for share in (0.25, 0.75):
                assert corners >= {(step / 50, round(value, 9)) for step, value in rows.quantile(share).items()}


def test_chance_is_drawn_among_the_subspaces(records: AnalysisRecords) -> None:
    first, second = drawn("alignment", records).axes
    level = raw(records)["chance_alignment"].mean()
    assert lines(second)["chance, subspaces (mean)"][1] == pytest.approx([level, level])
    assert set(lines(first)) == {"opd", "rl"}


@pytest.mark.parametrize(
    ("name", "column", "checkpoint"),
    [("effective_rank", "effective_rank", 4), ("first_vector", "first_vector_cosine", 0)],
)
def test_a_heat_map_has_the_value_of_each_layer_and_module(
    name: str, column: str, checkpoint: int, records: AnalysisRecords
) -> None:
    *panels, bar = drawn(name, records).axes
    assert [axes.get_title(loc="left") for axes in panels] == ["opd", "rl"]
    for run, axes in zip(("opd", "rl"), panels, strict=True):
        (image,) = axes.images
        rows = raw(records, run=run, checkpoint=checkpoint).set_index(["module", "layer"])[column]
        for row, label in enumerate(axes.get_yticklabels()):
            for layer in range(4):
                assert image.get_array()[row, layer] == pytest.approx(rows[label.get_text(), layer])
        assert image.get_extent() == [-0.5, 3.5, len(axes.get_yticks()) - 0.5, -0.5]
        assert image.get_clim() == pytest.approx(bar.get_ylim())


def test_spectra_fall_from_one_by_kind(records: AnalysisRecords) -> None:
    figure = drawn("spectra", records)
    for run, axes in zip(("opd", "rl"), figure.axes, strict=True):
        assert set(lines(axes)) == {"attention, median", "MLP, median"}
        assert len(axes.lines) == 4 * 7 + 2
        mine = [each for each in read_spectra(records) if each.run == run]
        ends = {(int(line.get_xdata()[-1]), round(float(line.get_ydata()[-1]), 12)) for line in axes.lines}
        assert ends >= {(int(each.indices[-1]), round(float(each.values[-1] / each.values[0]), 12)) for each in mine}
        for x, y in lines(axes).values():
            assert (x[0], y[0]) == (1, 1)
            assert (np.diff(y) < 0).all()


def test_the_median_spectrum_is_that_of_its_kind(records: AnalysisRecords) -> None:
    (axes, *_) = drawn("spectra", records).axes
    names = {each.parameter: each for each in read_spectra(records) if each.run == "opd"}
    second = {kind: [] for kind in ("self_attn", "mlp")}
    for name, each in names.items():
        second["mlp" if ".mlp." in name else "self_attn"].append(each.values[1] / each.values[0])
    for kind, label in (("self_attn", "attention, median"), ("mlp", "MLP, median")):
        x, y = lines(axes)[label]
        assert y[x.index(2)] == pytest.approx(np.median(second[kind]))


def test_layer_norms_are_drawn_by_kind(records: AnalysisRecords) -> None:
    for axes, kind in zip(drawn("layer_norms", records).axes, ("attention", "mlp"), strict=True):
        assert axes.get_title(loc="left").lower() == kind
        for run, (x, y) in lines(axes).items():
            rows = raw(records, run=run, kind=kind, checkpoint=4)
            norms = np.sqrt((rows["frobenius_norm"] ** 2).groupby(rows["layer"]).sum())
            assert x == list(norms.index)
            assert y == pytest.approx(list(norms))


def test_a_trajectory_goes_through_its_checkpoints_in_order(records: AnalysisRecords) -> None:
    figure = drawn("trajectory", records)
    panels = [axes for axes in figure.axes if axes.get_title(loc="left")]
    assert len(panels) == 2 * 4
    for index, axes in enumerate(panels):
        run, name = ("opd", "rl")[index // 4], axes.get_title(loc="left").split("\n")[0]
        rows = records.trajectories[records.trajectories["run"] == run].sort_values("checkpoint")
        rows = rows[rows["parameter"] == f"model.layers.{name}.weight"]
        path, first, last = axes.lines
        np.testing.assert_allclose(path.get_xydata(), rows[["pc1", "pc2"]])
        np.testing.assert_allclose(first.get_xydata()[0], rows[["pc1", "pc2"]].iloc[0])
        np.testing.assert_allclose(last.get_xydata()[0], rows[["pc1", "pc2"]].iloc[-1])
        assert (first.get_label(), last.get_label()) == ("first checkpoint", "last checkpoint")
        assert list(axes.collections[0].get_array()) == pytest.approx([0.2, 0.4, 0.6, 0.8, 1])
        assert axes.get_title(loc="left").endswith("EVR 85%")


def test_all_trajectories_lie_in_their_cells_in_order(records: AnalysisRecords) -> None:
    for name, column in (("trajectory_tsne", "tsne"), ("trajectory_tsne_authors", "authors_tsne")):
        panels = [axes for axes in drawn(name, records).axes if axes.get_title(loc="left")]
        assert [axes.get_title(loc="left") for axes in panels] == ["opd", "rl"]
        modules = [label.get_text() for label in panels[0].get_yticklabels()]
        for axes in panels:
            rows = records.trajectories[records.trajectories["run"] == axes.get_title(loc="left")]
            lines_of_paths, dots = axes.collections
            paths, seen = lines_of_paths.get_segments(), set()
            np.testing.assert_allclose(dots.get_offsets(), np.concatenate(paths))
            assert list(dots.get_array()) == pytest.approx([0.2, 0.4, 0.6, 0.8, 1] * len(paths))
            for points in paths:
                layer, row = (round(value) for value in points.mean(axis=0).round(1))
                cell = np.array([layer, row])
                assert np.abs(points - cell).max() <= 0.38 + 1e-9
                seen.add((layer, row))
                of = rows[rows["parameter"] == f"model.layers.{layer}.{modules[row]}.weight"].sort_values("checkpoint")
                expected = of[[f"{column}1", f"{column}2"]].to_numpy() * [1, -1]
                steps = np.diff(expected, axis=0)
                np.testing.assert_allclose(np.diff(points, axis=0) * steps[0, 0] / (points[1] - points[0])[0], steps)
            assert len(seen) == len(paths) == 4 * 7


def test_every_rank_is_drawn_against_chance(records: AnalysisRecords) -> None:
    panels = drawn("alignment_by_rank", records).axes[:4]
    file = pd.read_parquet(records.directory / "alignments.parquet")
    sizes = raw(records).drop_duplicates("parameter").set_index("parameter")["rows"]
    for index, axes in enumerate(panels):
        run, what = ("opd", "rl")[index % 2], ("vector", "subspace")[index // 2]
        *curves, chance = axes.lines
        assert len(curves) == 20
        for rank, line in enumerate(curves, start=1):
            means = file[file["run"] == run].groupby("checkpoint")[f"{what}_{rank}"].mean()
            assert list(line.get_ydata()) == pytest.approx(list(means))
        rows = file.loc[(file["run"] == run) & file[f"{what}_20"].notna(), "parameter"].map(sizes)
        expected = np.sqrt((20 if what == "subspace" else 1) / rows).mean()
        assert chance.get_ydata()[0] == pytest.approx(expected)
        assert axes.get_ylim() == axes.get_xlim() == (0, 1)


def test_the_tail_is_what_the_first_components_leave(records: AnalysisRecords) -> None:
    share, norm = drawn("tail_norm", records).axes
    last = raw(records, run="opd", checkpoint=4).dropna(subset="effective_rank")
    x, y = lines(share)["opd"]
    # The made-up ratio is that of the first component, which is ceil(1 %) of at most 64.
    assert y[x.index(1)] == pytest.approx(np.sqrt(1 - last["top1pct_norm_ratio"].astype(float) ** 2).mean())
    assert y[-1] == 0
    assert y == sorted(y, reverse=True)
    tails = np.sqrt(last["frobenius_norm"] ** 2 - last["spectral_norm"].astype(float) ** 2)
    assert lines(norm)["opd"][1][x.index(1)] == pytest.approx(tails.mean())
    assert share.get_ylim() == (0, 1)


def test_embeddings_go_from_the_base_to_where_training_took_them(records: AnalysisRecords) -> None:
    figure = drawn("embedding_shift", records)
    histogram, pca, tsne = figure.axes
    tokens = records.embedding_tokens
    for run, stairs in zip(("opd", "rl"), histogram.patches[1::2], strict=True):
        cosines = tokens.loc[tokens["run"] == run, "cosine"].dropna()
        values, edges, _ = stairs.get_data()
        assert values == pytest.approx(np.histogram(cosines, edges)[0] / len(cosines))
    for axes, plane in ((pca, ""), (tsne, "tsne_")):
        base, *others = axes.collections
        for run, segments, trained in zip(("opd", "rl"), others[::2], others[1::2], strict=True):
            rows = tokens[tokens["run"] == run]
            np.testing.assert_allclose(base.get_offsets(), rows[[f"{plane}base_x", f"{plane}base_y"]])
            np.testing.assert_allclose(trained.get_offsets(), rows[[f"{plane}trained_x", f"{plane}trained_y"]])
            np.testing.assert_allclose(segments.get_segments()[5], [base.get_offsets()[5], trained.get_offsets()[5]])
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts[0] == "base"
    assert "median shift 20 % of the embedding's length" in texts[2]


def test_tiny_shifts_are_drawn_longer_and_said_to_be(records: AnalysisRecords) -> None:
    tokens = records.embedding_tokens.copy()
    for axis in "xy":
        tokens[f"trained_{axis}"] = tokens[f"base_{axis}"] + 1e-4 * (tokens[f"trained_{axis}"] - tokens[f"base_{axis}"])
    tokens["cosine"] = 1 - 1e-7 * (1 - tokens["cosine"])
    _, pca, tsne = drawn("embedding_shift", replace(records, embedding_tokens=tokens)).axes
    factor = magnification(tokens)
    assert factor in (1_000, 10_000)
    assert pca.get_title(loc="left") == f"principal components, shifts drawn {factor:,}-fold"
    base, _, trained, *_ = pca.collections
    moved = tokens[tokens["run"] == "opd"]
    expected = factor * (moved[["trained_x", "trained_y"]].to_numpy() - moved[["base_x", "base_y"]].to_numpy())
    np.testing.assert_allclose(trained.get_offsets() - base.get_offsets(), expected, atol=1e-9)
    assert tsne.get_title(loc="left") == "t-SNE"
    assert "mean cosine 0.999999" in trained.get_label()


def test_shares_and_cosines_do_not_leave_their_range(records: AnalysisRecords) -> None:
    for name in ("concentration", "alignment", "alignment_by_rank", "tail_norm"):
        for axes in drawn(name, records).axes:
            if axes.get_title(loc="left") not in ("spectral norm", "effective rank", "mean norm of a matrix", ""):
                low, high = axes.get_ylim()
                assert low >= 0 and high <= 1, name
                assert not any(line.get_clip_on() for line in axes.lines if len(line.get_xdata()) > 2), name


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_no_text_is_cut_off_and_layers_are_whole(plan: Fabricated, tmp_path: Path) -> None:
    records = read_analysis(fabricate(tmp_path / "out", plan))
    for name in DRAW:
        figure = drawn(name, records)
        FigureCanvasAgg(figure).draw()
        frame = figure.bbox.expanded(1.01, 1.01)
        # Words alone: there are ticks beyond the ends of an axis, which are not drawn.
        words = [
            text for text in figure.findobj(Text) if re.search("[a-z]", text.get_text().replace("mathdefault", ""))
        ]
        boxes = {text.get_text(): text.get_window_extent() for text in words}
        cut = [text for text, box in boxes.items() if not (frame.contains(*box.min) and frame.contains(*box.max))]
        assert cut == [], name
        for axes in figure.axes:
            if axes.get_xlabel() in ("layer", "optimizer step"):
                low, high = axes.get_xlim()
                assert all(tick == int(tick) for tick in axes.get_xticks() if low <= tick <= high), name


def test_of_many_checkpoints_some_have_a_marker(tmp_path: Path) -> None:
    records = read_analysis(fabricate(tmp_path / "out", PLANS["many checkpoints"]))
    for name in ("update_norm", "concentration"):
        (line, *_) = drawn(name, records).axes[0].lines
        assert line.get_markevery() == 4
        assert len(line.get_xdata()) == 80
