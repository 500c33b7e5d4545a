"""docs/evidence.md, from the committed records of the short study, judged by the claims as they are now.

python benchmarks/evidence.py                      # judges results/study-records, writes study.json and the page
python benchmarks/evidence.py --study runs/study   # takes the verdicts of that directory of `effopd study` instead
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

from study_records import RECORDS, finished_worlds, unpack

from effopd.files import read_json, write_json, write_text
from effopd.report.study import evidence
from effopd.study.claims import written_down
from effopd.study.plan import make_plan
from effopd.study.run import judged, settings_of

VERDICTS = Path(__file__).parent / "results" / "study.json"
PAGE = Path(__file__).parents[1] / "docs" / "evidence.md"
QUICK = (
    "**This is the quick study**: one world, {seeds} seeds, short runs at a learning rate that makes them short. What "
    "it decides, it decides for these. With {seeds} seeds, an interval reaches {factor:.1f} standard errors to either "
    "side, and Holm's procedure asks for more. What this project knows from larger comparisons, which "
    "were not planned as tests, is in [what holds by analysis](world_analysis.md), [by sweep](world_sweep.md) and "
    "[what reaching an accuracy costs](results.md)."
)
SHORT = (
    "**This is the short study**, {worlds}: {seeds} seeds, all methods, and runs that are short because their learning "
    "rate is a third of the best one, and not a tenth, with 64 prompts per step. "
    "**Some of its statistics were mended after `style` and `facts` had been judged, and before any run of "
    "`sibling`**: [which, and what they said before](decisions/0025-mended-claims.md). What they say of `style` and "
    "`facts` is after the fact, and some need runs that were not made there. "
)
FULL = (
    "Other comparisons, which were not planned as tests, are in [what holds by analysis](world_analysis.md), [by "
    "sweep](world_sweep.md) and [what reaching an accuracy costs](results.md)."
)


def page(content: dict[str, Any]) -> str:
    """Make the page from the contents of `claims.json`."""
    from scipy.stats import t

    seeds = len(content["study"]["seeds"])
    about = {"quick": QUICK, "short": SHORT + FULL, "full": FULL}[content["study"]["plan"]]
    about = about.format(seeds=seeds, factor=t.ppf(0.975, seeds - 1), worlds=_worlds(content["study"]["worlds"]))
    text = evidence(content)
    if content["study"]["plan"] == "short":
        text = text.replace("written down before the first run;", "written down before the first run of `sibling`;")
    return "\n".join(
        [
            "# Evidence: each claim of the paper, and its verdict",
            "",
            "By [`effopd study`](study.md), from [these records](../benchmarks/results/study-records); written by",
            "`python benchmarks/evidence.py`.",
            "",
            about,
            "",
            text,
        ]
    )


def _worlds(studied: list[str]) -> str:
    """Name the worlds, and those that the plan has and that are to be done."""
    left = [world for world in make_plan("short").worlds if world not in studied]
    names = f"of the world{'s' if len(studied) > 1 else ''} {', '.join(f'`{world}`' for world in studied)}"
    return f"{names} (still to be done: {', '.join(f'`{world}`' for world in left)})" if left else names


def judge_records() -> dict[str, Any]:
    """Judge the finished worlds of the committed records by the claims as they are now."""
    done = finished_worlds()
    plan = make_plan("short", worlds=[world for world in make_plan("short").worlds if world in done])
    with tempfile.TemporaryDirectory() as folder:
        unpack(RECORDS, Path(folder))
        return judged(plan, Path(folder), settings_of(plan, written_down()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", type=Path, help="directory that `effopd study` wrote; default: committed records")
    study = parser.parse_args().study
    content = judge_records() if study is None else read_json(study / "claims.json")
    write_json(VERDICTS, content)
    write_text(PAGE, page(read_json(VERDICTS)))


if __name__ == "__main__":
    main()
