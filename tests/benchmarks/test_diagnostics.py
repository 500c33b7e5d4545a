"""Whether early signals predict outcomes: the statistics against scipy and known answers, and the runs and pages."""

import json
from pathlib import Path

import diagnostics
import diagnostics_report as report
import diagnostics_run
import numpy as np
import pytest
import torch
from diagnostics_run import SIGNALS, Run
from diagnostics_statistics import best_threshold, rank_correlation
from scipy import stats

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"


def test_one_group_gives_spearmans_rho_with_ties():
    rng = np.random.default_rng(0)
    signal, outcome = rng.integers(6, size=(2, 30)).astype(float)
    expected = stats.spearmanr(signal, outcome)
    found = rank_correlation(signal.tolist(), outcome.tolist(), ["one"] * 30)
    assert found.estimate == pytest.approx(expected.statistic)
    assert found.p_value == pytest.approx(expected.pvalue, abs=0.02)
    assert found.low < found.estimate < found.high
    assert (found.num_runs, found.num_groups) == (30, 1)


def test_what_only_tells_the_group_is_no_correlation_within_groups():
    """Both follow the learning rate strongly, and apart from that not at all."""
    rng = np.random.default_rng(0)
    groups = np.repeat(range(6), 20)
    signal, outcome = 10 * groups + rng.normal(size=(2, 120))
    assert rank_correlation(signal.tolist(), outcome.tolist(), ["one"] * 120).low > 0.9
    within = rank_correlation(signal.tolist(), outcome.tolist(), groups.tolist())
    assert within.low < 0 < within.high
    assert within.p_value > 0.05


def test_what_holds_within_every_group_is_found_although_the_groups_go_the_other_way():
    groups = np.repeat(range(6), 6)
    inside = np.tile(np.arange(6.0), 6)
    found = rank_correlation((inside - 10 * groups).tolist(), (inside + 10 * groups).tolist(), groups.tolist())
    assert found.estimate == pytest.approx(1)
    assert found.p_value == 1 / 20_001


def test_groups_in_which_nothing_varies_and_missing_values_do_not_count():
    signal = [1.0, 2.0, 3.0, 1.0, 2.0, None, 5.0]
    outcome = [1.0, 2.0, 4.0, 0.5, 0.5, 0.1, 7.0]
    groups = ["a", "a", "a", "b", "b", "b", "a"]
    found = rank_correlation(signal, outcome, groups)
    assert (found.estimate, found.num_runs, found.num_groups) == (pytest.approx(1), 4, 1)
    assert rank_correlation([1.0, 2.0], [0.0, 0.0], ["a", "a"]) is None


def test_the_interval_covers_the_true_correlation():
    """A 95 % interval misses the true correlation about five times in 100 samples, each of 36 runs in six cells."""
    rng = np.random.default_rng(1)
    groups = np.repeat(range(6), 6).tolist()
    missed = 0
    for seed in range(100):
        signal, outcome = rng.normal(size=(2, 36))
        found = rank_correlation(signal.tolist(), outcome.tolist(), groups, seed)
        missed += not found.low <= 0 <= found.high
    assert missed <= 14


def test_the_best_threshold_of_either_direction():
    assert best_threshold([1.0, 2.0, 3.0, 4.0], [True, True, False, False]) == (2.5, True)
    assert best_threshold([1.0, 2.0, 3.0, 4.0, 5.0], [False, False, True, False, True]) == (2.5, False)


def test_a_threshold_is_chosen_on_one_world_and_counted_on_the_other():
    records = [record(rate, seed, unstable=rate == 1e-1) for rate in (1e-3, 1e-1) for seed in (0, 0.1)]
    records += [each | {"run": each["run"] | {"world": "sibling"}, "unstable": False} for each in records]
    row = next(row for row in report.thresholds(records) if row["signal"] == "direction_cosine")
    assert row["below"]
    assert row["worlds"] == {
        "style": {"unstable": [2, 2], "stable": [0, 2]},
        "sibling": {"unstable": [0, 0], "stable": [2, 4]},
    }


def weights(seed):
    torch.manual_seed(seed)
    return {
        "model.embed_tokens.weight": torch.randn(8, 6),
        "model.layers.0.self_attn.q_proj.weight": torch.randn(6, 6),
        "model.layers.0.mlp.up_proj.weight": torch.randn(12, 6),
        "lm_head.weight": torch.randn(8, 6),
    }


def test_signals_of_a_straight_line_and_of_one_that_turns_back():
    base, direction = weights(0), weights(1)
    half, now = ({name: base[name] + scale * direction[name] for name in base} for scale in (0.5, 1.0))
    straight = diagnostics_run.early_signals(base, half, now)
    assert straight["direction_cosine"] == pytest.approx(1)
    assert straight["first_vector_alignment"] == pytest.approx(1)
    assert straight["subspace_alignment"] == pytest.approx(1)
    squares = {name: float(each.double().square().sum()) for name, each in direction.items()}
    outside = squares["model.embed_tokens.weight"] + squares["lm_head.weight"]
    assert straight["embedding_share"] == pytest.approx(outside / sum(squares.values()), rel=1e-5)
    norm = sum(float(each.double().square().sum()) for each in base.values())
    assert straight["update_norm"] == pytest.approx((sum(squares.values()) / norm) ** 0.5, rel=1e-5)
    back = {name: base[name] + 0.25 * direction[name] for name in base}
    assert diagnostics_run.early_signals(base, half, back)["direction_cosine"] == pytest.approx(-1)


def test_signals_of_weights_that_are_not_finite_are_missing():
    base, now = weights(0), weights(1)
    now["model.layers.0.mlp.up_proj.weight"][0, 0] = torch.nan
    assert diagnostics_run.early_signals(base, weights(2), now) == dict.fromkeys(SIGNALS)


def record(rate, seed, **changes):
    """Made up: the direction cosine decides the final accuracy within every rate."""
    cosine = 0.1 * seed - rate
    signals = dict.fromkeys(SIGNALS, 0.5) | {"direction_cosine": cosine}
    final = 0.5 + 0.05 * seed
    return {
        "run": {"world": "style", "learning_rate": rate, "seed": seed, "steps": 8, "prompts_per_step": 8},
        "signals": {"1": signals, "2": signals},
        "accuracies": [[0, 0.5], [1, 0.5], [2, 0.6], [8, final]],
        "final_accuracy": final,
        "jumped_accuracy": {"2": 0.4, "4": 0.1},
        "diverged": False,
        "largest_fall": 0.0,
        "unstable": False,
        "versions": {"torch": "1"},
    } | changes


def test_a_report_of_made_up_records(tmp_path):
    diverged = {"diverged": True, "unstable": True, "final_accuracy": 0.0, "jumped_accuracy": {}, "signals": {}}
    records = [record(rate, seed) for rate in (1e-3, 1e-2) for seed in range(6)] + [record(1e-1, 0, **diverged)]
    report.write_report(records, tmp_path, "command", "")
    summary = json.loads((tmp_path / "diagnostics.json").read_text())
    within = [row for row in summary["correlations"] if row["within"] == "within a rate"]
    found = {row["outcome"]: row for row in within if (row["signal"], row["after"]) == ("direction_cosine", "1/4")}
    assert found["final accuracy"]["estimate"] == pytest.approx(1)
    assert found["final accuracy"]["num_runs"] == 12
    assert found["final accuracy"]["holm"] < 0.05
    assert found["unstable"]["estimate"] is None
    page = (tmp_path / "diagnostics.md").read_text()
    assert page == report.markdown(summary)
    assert "**+1.00 [+1.00, +1.00]** (12)" in page
    assert "1 (0 by 1/4, 1 diverged)" in page


def test_the_committed_pages_are_those_of_the_committed_runs():
    runs = [run for of_world in diagnostics.planned(quick=False).values() for run in of_world]
    records = list(diagnostics.read_records(runs, RESULTS / "diagnostics-runs").values())
    assert len(records) == len(runs) >= 36
    summary = json.loads((RESULTS / "diagnostics.json").read_text())
    assert summary["cells"] == json.loads(json.dumps(report.cells(records)))
    assert summary["thresholds"] == json.loads(json.dumps(report.thresholds(records)))
    assert (RESULTS / "diagnostics.md").read_text() == report.markdown(summary)


def test_the_tables_of_the_documentation_are_those_of_the_results():
    section = (
        (ROOT / "docs" / "training.md").read_text().partition("### What the signals predict")[2].partition("\n## ")[0]
    )
    rows = [line for line in section.splitlines() if line.startswith("|")]
    assert len(rows) >= 8
    assert set(rows) <= set((RESULTS / "diagnostics.md").read_text().splitlines())


@pytest.mark.slow
def test_the_smoke_run(tmp_path):
    diagnostics.main(["--quick", "--out", str(tmp_path)])
    assert "Not finished" not in (tmp_path / "results" / "diagnostics.md").read_text()


def test_a_run_notes_its_signals_and_jumps_and_leaves_the_end_as_it_was(tmp_path):
    run = Run("style", 1e-3, 0, 16, 8, 20)
    found = diagnostics_run.do_run(run, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert Run(**json.loads(json.dumps(found, allow_nan=False))["run"]) == run
    assert [step for step, _ in found["accuracies"]] == [0, 2, 4, 8, 16]
    assert found["signals"].keys() == {"2", "4"}
    assert None not in found["signals"]["4"].values()
    assert found["jumped_accuracy"].keys() == {"2", "4"}
    assert found["final_accuracy"] == found["accuracies"][-1][1]
