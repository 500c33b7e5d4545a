import math
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest

from effopd.report.curves import CostPoint, _curve, _median_curve, accuracy_figure, cost_figure


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


def check_pictures(paths: list[Path]) -> None:
    svg, png = paths
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


def test_cost_figure_with_censored_points(tmp_path: Path) -> None:
    series = {
        "vanilla OPD": [
            CostPoint(1e-5, 100_000, math.inf, 90_000, math.inf),
            CostPoint(1e-3, 2000, 2000, 1800, 2300),
        ],
        "EffOPD": [CostPoint(1e-5, 15_000, 15_000, 14_000, 100_500), CostPoint(1e-3, 2400, 2400, 2200, 2500)],
    }
    check_pictures(cost_figure(series, tmp_path / "figures" / "cost", target=0.95, limit=100_000))


def test_a_figure_is_replaced_only_when_the_new_one_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [svg, _] = accuracy_figure([make_run("none", 0, 4)], 0.95, tmp_path / "accuracy.svg")
    before = svg.read_bytes()

    def half(self: object, path: Path, **kwargs: object) -> None:
        path.write_text("<svg")
        raise KeyboardInterrupt

    monkeypatch.setattr("effopd.report.curves.Figure.savefig", half)
    with pytest.raises(KeyboardInterrupt):
        accuracy_figure([make_run("none", 0, 5)], 0.95, tmp_path / "accuracy.svg")
    assert svg.read_bytes() == before
