import math
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from effopd.report import curves
from effopd.report.curves import PANELS, CostPoint, _curve, _median_curve, accuracy_figure, cost_figure
from effopd.report.drawing import save


def make_run(acceleration: str, seed: int, steps: int, learning_rate: float = 1e-4) -> dict:
    accelerated = acceleration != "none"
    rows = [
        {
            "step": step,
            "rollouts": 256 * step + 100 * accelerated,
            "seconds_total": 0.5 * step,
            "accuracy": None if step % 3 == 0 else 0.5 + 0.45 * step / steps,
            "accepted_scale": (4.0 if step in (1, 2) else None) if accelerated else None,
        }
        for step in range(1, steps + 1)
    ]
    return {"acceleration": acceleration, "seed": seed, "learning_rate": learning_rate, "rows": rows}


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Those drawn from now on; they are saved too."""
    found: list[Figure] = []
    monkeypatch.setattr(curves, "save", lambda figure, path: (found.append(figure), save(figure, path))[1])
    return found


def check_pictures(paths: list[Path]) -> None:
    svg, pdf, png = paths
    assert pdf.read_bytes().startswith(b"%PDF")
    assert ElementTree.parse(svg).getroot().tag.endswith("svg")
    assert png.read_bytes().startswith(b"\x89PNG")
    assert sorted(svg.parent.iterdir()) == sorted(paths)  # nothing temporary is left


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("rates", [(1e-4,), (3e-5, 1e-3)])
def test_accuracy_figure(seeds: int, rates: tuple[float, ...], tmp_path: Path) -> None:
    runs = [
        make_run(acceleration, seed, steps, rate)
        for rate in rates
        for seed in range(seeds)
        for acceleration, steps in (("none", 32 + seed), ("paper", 8))
    ]
    check_pictures(accuracy_figure(runs, 0.95, tmp_path / "figures" / "accuracy.svg"))


def test_what_an_accuracy_figure_draws(tmp_path: Path, figures: list[Figure]) -> None:
    rates = (3e-5, 1e-3)
    runs = [
        make_run(method, seed, steps, rate)
        for rate in rates
        for seed in range(3)
        for method, steps in (("paper", 8), ("none", 32 + seed))
    ]
    accuracy_figure(runs, 0.9, tmp_path / "accuracy")
    (figure,) = figures
    rows = [figure.axes[:3], figure.axes[3:]]
    for rate, panels in zip(rates, rows, strict=True):
        assert panels[0].get_ylabel() == f"accuracy, learning rate {rate:g}"
        for axes, (column, label) in zip(panels, PANELS, strict=True):
            assert axes.get_xlabel() == (label if rate == rates[-1] else "")
            assert axes.get_xscale() == "log"
            assert axes.get_ylim()[1] <= 1
            lines = {str(line.get_label()): line for line in axes.lines}
            assert list(lines["target 0.9"].get_ydata()) == [0.9, 0.9]
            for name, method in (("vanilla OPD", "none"), ("EffOPD", "paper")):
                group = [run["rows"] for run in runs if (run["acceleration"], run["learning_rate"]) == (method, rate)]
                x, y = _median_curve([_curve(run, column) for run in group])
                np.testing.assert_array_equal(lines[name].get_xydata(), np.column_stack([x, y]))
                thin = [line for line in axes.lines if line.get_alpha() and line.get_color() == lines[name].get_color()]
                assert len(thin) == 3
                reached = [next(row[column] for row in run if (row["accuracy"] or 0) >= 0.9) for run in group]
                (number,) = [text for text in axes.texts if text.get_color() == lines[name].get_color()]
                assert number.get_text() == f"{np.median(reached):,.0f}"
                assert number.get_position()[0] == np.median(reached)
            jumps = lines["accepted extrapolation"]
            first = [row[column] for row in runs[0]["rows"] if row["accepted_scale"]]
            assert list(jumps.get_xdata()) == 3 * first
            assert jumps.get_markeredgecolor() == lines["EffOPD"].get_color() != lines["vanilla OPD"].get_color()


def test_accuracy_figure_of_one_method_alone(tmp_path: Path) -> None:
    check_pictures(accuracy_figure([make_run("none", 0, 4)], 0.95, tmp_path / "figures" / "accuracy.png"))


def test_the_median_curve_of_one_run_is_the_run() -> None:
    curve = _curve(make_run("none", 0, 8)["rows"], "rollouts")
    for got, expected in zip(_median_curve([curve]), curve, strict=True):
        assert np.array_equal(got, expected)


def test_a_run_that_stopped_keeps_its_last_accuracy_in_the_median() -> None:
    curves = [(np.array([1.0, 2.0]), np.array([0.5, 0.9])), (np.array([1.0, 4.0]), np.array([0.5, 0.7]))]
    x, accuracy = _median_curve(curves)
    assert x.tolist() == [1, 2, 4]
    assert accuracy == pytest.approx([0.5, (0.9 + 0.5 + 0.2 / 3) / 2, 0.8])


def test_cost_figure_with_censored_points(tmp_path: Path, figures: list[Figure]) -> None:
    series = {
        "vanilla OPD": [
            CostPoint(1e-5, 100_000, math.inf, 90_000, math.inf),
            CostPoint(1e-3, 2000, 2000, 1800, 2300),
        ],
        "EffOPD": [CostPoint(1e-5, 15_000, 15_000, 14_000, 100_500), CostPoint(1e-3, 2400, 2400, 2200, 2500)],
    }
    check_pictures(cost_figure(series, tmp_path / "figures" / "cost", target=0.95, limit=100_000))
    (axes,) = figures[0].axes
    assert axes.get_ylabel() == "rollouts to accuracy 0.95"
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    assert [text.get_text() for text in axes.get_legend().get_texts()] == list(series)
    for bars, all_points in zip(axes.containers, series.values(), strict=True):
        points = [point for point in all_points if math.isfinite(point.at_most)]
        line, _, (ranges,) = bars.lines
        assert list(line.get_ydata()) == [point.at_least for point in points]
        assert line.get_xdata() == pytest.approx([point.learning_rate for point in points], rel=0.05)
        ends = [(low, high) for (_, low), (_, high) in ranges.get_segments()]
        assert ends == [(point.low, pytest.approx(min(point.high, 100_000))) for point in points]
    assert len(axes.texts) == 1  # the arrow of the censored point
    (hollow,) = [line for line in axes.lines if line.get_markerfacecolor() == "white"]
    assert list(hollow.get_ydata()) == [100_000]


def test_a_figure_is_replaced_only_when_the_new_one_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [svg, *_] = accuracy_figure([make_run("none", 0, 4)], 0.95, tmp_path / "accuracy.svg")
    before = svg.read_bytes()

    def half(self: object, path: Path, **kwargs: object) -> None:
        path.write_text("<svg")
        raise KeyboardInterrupt

    monkeypatch.setattr("effopd.report.curves.Figure.savefig", half)
    with pytest.raises(KeyboardInterrupt):
        accuracy_figure([make_run("none", 0, 5)], 0.95, tmp_path / "accuracy.svg")
    assert svg.read_bytes() == before
