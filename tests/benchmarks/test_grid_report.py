"""The report of `grid.py` from made-up records: totals, tables, figure and page; the committed ones are up to date."""

import json
import math
import xml.etree.ElementTree as ElementTree

import pytest
from fabricated_runs import ROOT, fabricate, plan, record
from grid_figure import heat_maps, shared_rates, short
from grid_pages import grid_page, help_page, times
from grid_report import cell_rows, comparisons, summarise, tuning, write_report
from grid_world import World, group

from effopd.experiments.censored_statistics import CensoredEstimate


def made_up(run):
    """Vanilla with 1e-3 is quick and with 1e-5 hopeless; line search always is quick; no others were run."""
    factor = {1e-5: 2_000, 3e-5: 300, 1e-4: 90, 3e-4: 30, 1e-3: 10, 3e-3: 50}[run.learning_rate]
    if run.method == "vanilla":
        if run.prompts_per_step == 8:
            return {"rollouts": None}
        if (run.learning_rate, run.prompts_per_step) == (3e-3, 16):
            return {"rollouts": None, "spent": 160, "diverged": True}
        rollouts = factor * run.prompts_per_step + 4 * run.seed
        return {"rollouts": rollouts if rollouts <= run.limit else None}
    return {"rollouts": 4 * run.prompts_per_step + run.seed} if run.method == "line_search" else None


@pytest.fixture(scope="module")
def made():
    chosen = plan()
    stages = ["vanilla", "vanilla-few-prompts", "vanilla-best", "line-search-default", "line-search", "vanilla-default"]
    stages += ["line-search-few-prompts", "line-search-elsewhere", "vanilla-small", "vanilla-small-best"]

    def outcome(run):
        return None if run.optim == "sgd" else made_up(run)

    return chosen, list(fabricate(chosen, outcome, worlds=["style", "long"], stages=stages).values())


@pytest.fixture(scope="module")
def summary(made):
    return {"command": "python benchmarks/grid.py", "note": "", **summarise(made[1], made[0])}


def test_a_cell(made):
    world = World("style", group(made[1], "style"), made[0])
    rows = {(row["method"], row["learning_rate"], row["prompts_per_step"]): row for row in cell_rows(world)}
    row = rows["line_search", 1e-4, 64]
    assert row["rollouts"] == {"at_least": 258, "at_most": 258, "low": 256, "high": 260}
    assert (row["seeds"], row["num_censored"], row["num_failed"]) == ([0, 1, 2, 3, 4], 0, 0)
    assert row["second_skill_lost"] == pytest.approx(0.01)
    given_up = rows["vanilla", 1e-5, 256]
    assert given_up["rollouts"]["at_most"] is None
    assert (given_up["rollouts"]["at_least"], given_up["num_censored"], given_up["num_failed"]) == (24_000, 1, 1)
    diverged = rows["vanilla", 3e-3, 16]
    assert (diverged["rollouts"]["at_least"], diverged["num_diverged"]) == (12_800, 1)  # the limit, not what it spent
    assert [method for method, *_ in rows][:: len(rows) - 1] == ["vanilla", "line_search"]


def test_what_the_search_for_rate_and_prompts_costs(made):
    chosen, records = made
    rows = {row["method"]: row for row in tuning(World("style", group(records, "style"), chosen))}
    first = [
        made_up(run) | {"limit": run.limit}
        for run in [*chosen.runs("vanilla", "style", ()), *chosen.runs("vanilla-few-prompts", "style", ())]
    ]
    spent = [each["rollouts"] or each.get("spent") or each["limit"] for each in first]
    assert rows["vanilla"]["search_rollouts"] == sum(spent)
    assert rows["vanilla"]["best"] == (1e-3, 16)
    assert rows["vanilla"]["search_with_early_stopping"] == 33 * 160  # the best takes 160, and the diverged one as many
    assert rows["vanilla"]["best_rollouts"]["at_least"] == 168
    assert rows["line_search"]["search_rollouts"] == 3 * 4 * (16 + 32 + 64 + 256)
    assert rows["line_search"]["default_rollouts"]["at_least"] == 258
    assert "paper" not in rows


def test_an_unfinished_search_has_no_total(made):
    chosen, records = made
    fewer = [each for each in records if each["run"]["learning_rate"] != 3e-5]
    row = next(iter(tuning(World("style", group(fewer, "style"), chosen))))
    assert "search_rollouts" not in row
    assert (row["cells_run"], row["cells"]) == (28, 33)


def test_what_a_user_would_do_otherwise(made):
    chosen, records = made
    rows = {row["situation"]: row for row in comparisons(World("style", group(records, "style"), chosen))}
    assert rows["best"]["theirs"] == (1e-3, 16)
    assert rows["best"]["rollouts"]["at_least"] == pytest.approx(168 / 258)
    assert rows["default"]["rollouts"]["at_least"] == pytest.approx((90 * 256 + 4) / 257)  # three seeds in common
    assert rows["lowest"]["rollouts"]["at_most"] is None


@pytest.mark.parametrize(
    ("bounds", "seeds", "text"),
    [
        ((2.0, 2.0, 1.5, 2.5), 5, "2.00 times fewer [1.50, 2.50]"),
        ((2.0, 2.0, 1.5, 2.5), 1, "2.00 times fewer"),
        ((0.5, 0.5, 0.25, 2.0), 5, "2.00 times as many [0.50, 4.00]"),
        ((30.0, None, 12.0, None), 3, "over 30 times fewer [12.0, no bound]"),
        ((0.0, 0.5, 0.0, 1.0), 3, "over 2.00 times as many [1.00, no bound]"),
        ((0.5, None, 0.4, None), 3, "not decided: runs were given up"),
        ((2.0, 4.0, 1.5, 5.0), 3, "2.00 to 4.00 times fewer [1.50, 5.00]"),
    ],
)
def test_ratios_in_words(bounds, seeds, text):
    assert times(dict(zip(("at_least", "at_most", "low", "high"), bounds, strict=True)), seeds) == text


def test_the_page_with_every_number(summary):
    page = grid_page(summary)
    assert "| vanilla OPD | 1e-5 | 256 | 1 | > 24,000 |" in page  # one seed: no interval
    assert "| line search | 1e-4 | 64 | 5 | 258 [256, 260] |" in page
    assert "| c | style | met | 1.00 [1.00, 1.00] | at most 2 | 50% |" in page
    assert "| d | style | not measured yet | 24 of the 24 cells of 2 passes and 4 passes have no run |" in page
    assert "line search needs at least 1.5 times fewer" in page


def test_nothing_is_compared_before_vanillas_best_cell_is_known(summary):
    others = [row for row in summary["comparisons"] if (row["situation"], row["world"]) != ("best", "style")]
    page = help_page(summary | {"comparisons": others})
    assert "- `style`:" not in page
    assert "- `long`:" in page
    assert not any(
        line.startswith("| vanilla's default cell | ") and "| not measured yet |" not in line
        for line in page.splitlines()
    )


def test_the_page_for_practitioners(summary):
    page = help_page(summary)
    assert "in its best cell, line search needs fewer rollouts in `long`; more rollouts in `style`." in page
    # 258 against 168; the ends are those of the seeds resampled together, 256 / 160 and 260 / 176.
    assert "| vanilla's best cell, if you know it | 1.54 times as many [1.48, 1.60] |" in page
    assert "168 [160, 176] in the best of 33 cells (1e-3 with 16 prompts)" in page
    assert "facts" not in page  # nothing is known of it
    assert "sibling" not in page
    assert page.splitlines()[0] == "# When does line search help?"
    assert "its worst costs at most twice its best. | **met** (1.00 [1.00, 1.00]) |" in page
    assert "**met** means that the median meets the goal" in page


def test_records_of_one_method_make_a_page_without_comparisons(made):
    chosen, records = made
    only = [each for each in records if each["run"]["method"] == "vanilla" and each["run"]["world"] == "style"]
    page = help_page({"command": "c", "note": "", **summarise(only, chosen)})
    assert "times" not in page.partition("## What was aimed at")[0]
    assert page.count("not measured yet") == 7


def test_the_files(made, summary, tmp_path):
    chosen, records = made
    write_report(records, chosen, tmp_path / "results", tmp_path / "docs" / "page.md", "python benchmarks/grid.py")
    assert {path.name for path in (tmp_path / "results").iterdir()} == {
        "grid.json", "grid.md", "grid-style.svg", "grid-style.pdf", "grid-style.png",
        "grid-long.svg", "grid-long.pdf", "grid-long.png",
    }  # fmt: skip
    saved = json.loads((tmp_path / "results" / "grid.json").read_text())
    assert (tmp_path / "docs" / "page.md").read_text() == help_page(saved) == help_page(summary)
    assert (tmp_path / "results" / "grid.md").read_text() == grid_page(saved) == grid_page(summary)
    assert len(saved["runs"]) == len(records)


def test_the_heat_map_marks_what_was_given_up_and_frames_the_best(tmp_path):
    exact = CensoredEstimate(704.0, 704.0, 700.0, 800.0)
    given_up = CensoredEstimate(24_000.0, math.inf, 24_000.0, math.inf)
    cells = {(1e-4, 64): exact, (1e-5, 64): given_up}
    frames = []
    for best in ({"line search": (1e-4, 64)}, {"line search": None}):
        svg, _, png = heat_maps({"line search": cells}, best, tmp_path / "map.svg", title="Rollouts")
        tree = ElementTree.parse(svg)
        frames.append(sum("#d55e00" in (each.get("style") or "") for each in tree.iter()))
        assert png.stat().st_size > 5_000
        comments = svg.read_text()
        assert "<!-- &gt;24k -->" in comments
        assert "<!-- 704 -->" in comments
    assert frames == [1, 0]


@pytest.mark.parametrize(("number", "text"), [(704, "704"), (2_816, "2.8k"), (9_960, "10k"), (24_000, "24k")])
def test_short_numbers(number, text):
    assert short(number) == text


def test_the_committed_pages_are_those_of_the_records():
    results, page = ROOT / "benchmarks" / "results", ROOT / "docs" / "when_does_it_help.md"
    records = sorted((results / "grid-runs").glob("*/*.json"))
    if not records:  # then there is nothing to say
        assert not page.exists()
        assert not (results / "grid.json").exists()
        return
    saved = json.loads((results / "grid.json").read_text())
    assert page.read_text() == help_page(saved)
    assert (results / "grid.md").read_text() == grid_page(saved)
    listed = {(run["world"], run["method"], run["seed"], run["rollouts"]) for run in saved["runs"]}
    for path in records:
        each = json.loads(path.read_text())
        run = each["run"]
        assert (run["world"], run["method"], run["seed"], each["rollouts_to_target"]) in listed, path
    assert len(saved["runs"]) == len(records)


def test_a_run_that_fell_back_is_in_the_table():
    chosen = plan()
    run = chosen.run("style", "vanilla", (1e-3, 32), 0)
    page = grid_page({"command": "c", "note": "", **summarise([record(run, 320, fell=True)], chosen)})
    cost, accuracies = "320 | 10 | 3,200 | 3,200 | 1 | 1", "0.950 | 0.800 | 0.970 | 0.0050 | 0.010 | 0.0020"
    assert f"| vanilla OPD | 1e-3 | 32 | 1 | {cost} | {accuracies} |" in page


def test_panels_share_the_rates_of_one_kind():
    adam, few, sgd = {(1e-4, 64): None, (1e-3, 64): None}, {(1e-4, 32): None}, {(0.1, 64): None}
    assert shared_rates(few, [adam, few, sgd]) == [1e-4, 1e-3]
    assert shared_rates(sgd, [adam, few, sgd]) == [0.1]
