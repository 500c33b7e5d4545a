"""docs/evidence.md, from the committed records of the short study, judged by the claims as they are now.

python benchmarks/evidence.py                      # judges results/study-records, writes study.json and the page
python benchmarks/evidence.py --study runs/study   # takes the verdicts of that directory of `effopd study` instead
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from study_records import RECORDS, finished_worlds, unpack

from effopd.files import read_json, write_json, write_text
from effopd.report.study import evidence
from effopd.report.study.words import estimate, p_value, summary, verdict
from effopd.report.table import Table
from effopd.study.claims import written_down
from effopd.study.plan import make_plan
from effopd.study.run import judged, settings_of

VERDICTS = Path(__file__).parent / "results" / "study.json"
# The world whose claims were all written down before its runs, judged by itself once it is done.
ALONE = "sibling"
VERDICTS_ALONE = VERDICTS.with_name(f"study-{ALONE}.json")
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


def page(content: dict[str, Any], alone: dict[str, Any] | None = None) -> str:
    """Make the page from the contents of `claims.json`, and of that of the world that is judged by itself."""
    from scipy.stats import t

    seeds = len(content["study"]["seeds"])
    about = {"quick": QUICK, "short": SHORT + FULL, "full": FULL}[content["study"]["plan"]]
    about = about.format(seeds=seeds, factor=t.ppf(0.975, seeds - 1), worlds=_worlds(content["study"]["worlds"]))
    text = evidence(content)
    if content["study"]["plan"] == "short":
        before = "written down before the first run"
        assert text.count(f"{before};") == 1, "the sentence on when claims were written down reads differently now"
        text = text.replace(f"{before};", f"{before} of `{ALONE}`;")
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
            *([] if alone is None else [_alone(alone).markdown()]),
        ]
    )


def _alone(content: dict[str, Any]) -> Table:
    """Make the table of the verdicts on one world by itself."""
    return Table(
        key=ALONE,
        title=f"`{ALONE}` by itself",
        note=(
            f"`{ALONE}` is the one world whose claims were all written down before its runs. These are the verdicts "
            f"on it, with Holm's procedure over these alone. {summary(content)}"
        ),
        header=("verdict", "claim", "predicted", "estimate", "p (Holm)", "runs"),
        rows=tuple(
            (
                verdict(claim),
                claim["statement"],
                claim["predicted"],
                estimate(claim),
                p_value(claim["p_holm"]),
                str(claim["num_runs"]),
            )
            for claim in content["claims"]
        ),
        text_columns=3,
    )


def _worlds(studied: list[str]) -> str:
    """Name the worlds, and those that the plan has and that are to be done."""
    left = [world for world in make_plan("short").worlds if world not in studied]
    names = f"of the world{'s' if len(studied) > 1 else ''} {', '.join(f'`{world}`' for world in studied)}"
    return f"{names} (still to be done: {', '.join(f'`{world}`' for world in left)})" if left else names


def judge_records(worlds: Sequence[str] | None = None) -> dict[str, Any]:
    """Judge worlds (default: all that are finished) of the committed records by the claims as they are now."""
    done = finished_worlds() if worlds is None else worlds
    plan = make_plan("short", worlds=[world for world in make_plan("short").worlds if world in done])
    with tempfile.TemporaryDirectory() as folder:
        unpack(RECORDS, Path(folder))
        return judged(plan, Path(folder), settings_of(plan, written_down()))


def committed_page() -> str:
    """Make the page from the committed verdicts."""
    return page(read_json(VERDICTS), read_json(VERDICTS_ALONE) if VERDICTS_ALONE.exists() else None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", type=Path, help="directory that `effopd study` wrote; default: committed records")
    study = parser.parse_args().study
    write_json(VERDICTS, judge_records() if study is None else read_json(study / "claims.json"))
    if ALONE in finished_worlds():
        write_json(VERDICTS_ALONE, judge_records([ALONE]))
    write_text(PAGE, committed_page())


if __name__ == "__main__":
    main()
