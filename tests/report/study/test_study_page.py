"""The report of a study: verdicts first, nothing unescaped, a figure for each measured claim."""

import math
import re
from pathlib import Path
from typing import Any

import pytest

from effopd.report.study import evidence, write_study_report
from effopd.report.study.figure import LEFT, RIGHT, WIDTH, claim_figure
from effopd.report.study.page import make_page
from effopd.report.study.words import estimate

HOSTILE = "</style><script>alert(1)</script> | `x` \"'"


def claim(**changes: Any) -> dict[str, Any]:
    world = {"values": {"200": 0.1, "201": 0.3}, "estimate": 0.2, "low": -1.07, "high": 1.47, "verdict": "undecided"}
    return {
        **{"name": "one", "theme": "Theme", "statement": "It holds.", "source": "a paper", "statistic": "a number"},
        **{"threshold": 0.0, "direction": "above", "is_ratio": False, "digits": 2, "predicted": "above 0"},
        **{"needs": [], "verdict": "undecided", "estimate": 0.2, "low": -1.07, "high": 1.47, "p": 0.3, "p_holm": 0.6},
        **{"num_runs": 4, "worlds": {"style": world}, "notes": []},
        **changes,
    }


def missing(**changes: Any) -> dict[str, Any]:
    nothing = dict.fromkeys(("estimate", "low", "high", "p", "p_holm"))
    return claim(
        name="two", verdict="not measured", num_runs=0, worlds={}, notes=["style: no runs"], **nothing, **changes
    )


def content(*claims: dict[str, Any], **changes: Any) -> dict[str, Any]:
    study = {
        "plan": "quick",
        "worlds": ["style"],
        "seeds": [200, 201],
        "methods": {"opd": {}},
        "claims_sha256": "ab" * 32,
    }
    return {"study": study, "failed": [], "versions": {"python": "3.11"}, "claims": list(claims), **changes}


def test_verdicts_come_first_and_missing_claims_last(tmp_path: Path) -> None:
    page = write_study_report(content(claim(), missing(statement="It is absent.")), tmp_path).read_text()
    assert (
        page.index("<table>")
        < page.index("How verdicts are reached")
        < page.index("<svg")
        < page.index("It is absent.")
    )
    assert "ab" * 32 in page and "<script" not in page and "http" not in page.replace("http-equiv", "")
    assert "1 is undecided" in page and "1 is not measured" in page
    text = (tmp_path / "evidence.md").read_text()
    assert "| undecided | It holds. | a paper | above 0 | 0.20 \\[-1.07, 1.47\\] | 0.600 | 4 |" in text
    assert text.index("## Verdicts") < text.index("## Not measured") and "It is absent. style: no runs." in text


def test_an_undecided_claim_says_that_its_worlds_disagree() -> None:
    worlds = {each: {**claim()["worlds"]["style"], "verdict": each} for each in ("supported", "contradicted")}
    found = content(claim(worlds=worlds, p=0.0001), claim())
    assert "(1 undecided because worlds disagree)" in evidence(found)
    assert evidence(found).count("| undecided: worlds disagree |") == evidence(found).count("| undecided |") == 1
    page = make_page(found)
    assert page.count('<b class="badge undecided">undecided: worlds disagree</b>') == 2
    assert "p &lt; 0.001, after Holm 0.600" in page and "p = 0.300, after Holm 0.600" in page


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [
        ([], "0.20 [-1.07, 1.47]"),
        (["at least"], "≥ 0.20 [-1.07, ?]"),
        (["at most"], "≤ 0.20 [?, 1.47]"),
        (["at least", "at most"], "? 0.20 [?, ?]"),
    ],
)
def test_an_estimate_says_which_ends_bounds_leave_open(bounds: list[str], expected: str) -> None:
    assert estimate(claim(bounds=bounds)) == expected


def test_everything_is_escaped(tmp_path: Path) -> None:
    worlds = {HOSTILE: claim()["worlds"]["style"]}
    hostile = claim(statement=HOSTILE, source=HOSTILE, statistic=HOSTILE, worlds=worlds, notes=[HOSTILE], theme=HOSTILE)
    made = content(hostile, missing(statement=HOSTILE), failed=[HOSTILE])
    page = write_study_report(made, tmp_path).read_text()
    assert "<script" not in page and page.count("</style>") == 1
    assert "\\|" in evidence(made)


def place(svg: str, pattern: str) -> list[float]:
    return [float(x) for x in re.findall(pattern, svg)]


def test_the_figure_is_to_scale() -> None:
    svg = claim_figure(claim())
    (low, high), (mean,) = place(svg, r'class="seed" cx="([\d.]+)"'), place(svg, r'class="mean" d="M([\d.]+)')
    (threshold,) = place(svg, r'class="threshold" x1="([\d.]+)"')
    assert mean == pytest.approx((low + high) / 2, abs=0.1)
    assert threshold == pytest.approx(low - (high - low) / 2, abs=0.2)
    assert place(svg, r'class="holds" x="([\d.]+)"') == [threshold]
    ends = place(svg, r'class="interval" x1="([\d.]+)" x2="(?:[\d.]+)"') + place(svg, r'x2="([\d.]+)" y1="17')
    assert ends[0] >= LEFT and ends[1] <= WIDTH - RIGHT


def test_ratios_are_on_a_logarithmic_axis_and_bounds_on_both_sides() -> None:
    world = {"values": {"0": 1.0, "1": 4.0}, "estimate": 2.0, "low": 0.001, "high": 4000.0, "verdict": "undecided"}
    svg = claim_figure(
        claim(is_ratio=True, threshold=1.0, worlds={"a": world, "b": world}, estimate=2.0, low=0.5, high=8.0)
    )
    first, second = place(svg, r'class="seed" cx="([\d.]+)"')[:2]
    assert place(svg, r'class="mean" d="M([\d.]+)')[0] == pytest.approx((first + second) / 2, abs=0.1)
    assert ">all worlds<" in svg and svg.count('class="seed"') == 4
    within = claim_figure(claim(direction="within", threshold=0.5))
    assert within.count('class="threshold"') == 2
    assert not math.isnan(place(within, r'class="holds" x="([\d.]+)"')[0])


def test_a_world_with_one_value_and_no_interval() -> None:
    world = {"values": {"0": 0.0}, "estimate": 0.0, "low": None, "high": None, "verdict": "undecided"}
    svg = claim_figure(claim(worlds={"a": world}, low=None, high=None, estimate=0.0))
    assert 'class="interval"' not in svg and svg.count('class="seed"') == 1
