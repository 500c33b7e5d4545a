"""docs/evidence.md, from the committed verdicts of a study.

effopd study --quick --seeds 5 --out runs/study
python benchmarks/evidence.py --study runs/study        # copies its claims.json and writes the page
python benchmarks/evidence.py                           # writes the page again
"""

import argparse
import json
from pathlib import Path

from effopd.extrapolation.presets import resolve_preset
from effopd.files import read_json, write_json, write_text
from effopd.report.study import evidence
from effopd.report.study.words import estimate
from effopd.study.plan import make_plan

RECORDS = Path(__file__).parent / "results" / "study.json"
SENSITIVITY = RECORDS.with_name("study_sensitivity.json")
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
    "After the runs in `style` had begun, and before a verdict of them had been computed, a review found rules of "
    "claims that were wrong; [the log](log.md) says which. They were mended; the digest below is of the mended ones. "
)
WEAK = """## What some of these statistics do not show

Found once the verdicts of two worlds were there. The claims stay as they were written down until the third world is
measured, and are mended then; until then, read them with this. By `python benchmarks/study_sensitivity.py`, with Holm's
adjustment over all claims:

{table}

- **`driving_ranks_updates`**: large tensors have large norms, of b as of the update. That larger b moves more is
  not shown.
- **`performance_kept`**: EffOPD has 0.6 of vanilla's steps, and is compared with the end of vanilla's.
- **`line_search_steps`, `line_search_steps_best`**: a step is a batch of rollouts, on which the line search makes
  {passes} optimizer steps. Rollouts, tokens and seconds count all.
- **`equal_norm_training`**: in `facts`, OPD's first checkpoint is farther from the base than RL's last one, so that
  RL is compared with a straight line there; in `style`, OPD has a checkpoint in {covered:.0%} of the range.
- **`inverted_u`**: with four layers, the windows at the ends hold two layers, and those in the middle three, the
  ends' among them. That middle windows are worth more is partly that.
- **`rl_algorithm_effective_rank`**: its bound is a quarter of OPD's effective rank, which is within a few percent
  of RL's; it can hardly fail.
- **EffOPD at the careful rate in `facts`**: no run of it reaches the target in its steps, so that nothing about its
  costs there, its validation set, its optimizer's state or ExOPD can be decided, whatever the data say.
- **`mean_gradients_agree`, `noise_of_gradients`**: in `facts`, RL's mean gradient cannot be told from 0 with four
  of five seeds. The cosine counts nevertheless.
- **`top_at_equal_norm`, `top_suffices`**: the norms are those of OPD's first seed, for all seeds.

"""
FULL = (
    "Other comparisons, which were not planned as tests, are in [what holds by analysis](world_analysis.md), [by "
    "sweep](world_sweep.md) and [what reaching an accuracy costs](results.md)."
)


def page(content: dict) -> str:
    """Make the page from the contents of `claims.json`."""
    from scipy.stats import t

    seeds = len(content["study"]["seeds"])
    about = {"quick": QUICK, "short": SHORT + FULL, "full": FULL}[content["study"]["plan"]]
    about = about.format(seeds=seeds, factor=t.ppf(0.975, seeds - 1), worlds=_worlds(content["study"]["worlds"]))
    verdicts, _, rest = evidence(content).partition("## How verdicts are reached")
    if content["study"]["plan"] == "short":
        about += " [Some statistics show less than their claims say](#what-some-of-these-statistics-do-not-show)."
        verdicts += _weak(json.loads(SENSITIVITY.read_text()))
    return "\n".join(
        [
            "# Evidence: each claim of the paper, and its verdict",
            "",
            "By [`effopd study`](study.md), from [these records](../benchmarks/results/study.json); written by",
            "`python benchmarks/evidence.py`.",
            "",
            about,
            "",
            verdicts + "## How verdicts are reached" + rest,
        ]
    )


def _weak(found: dict) -> str:
    """Write what becomes of some claims with another statistic, and what else is weak."""
    worlds = [*found["worlds"], "all worlds"]
    lines = ["| claim | statistic in its place | " + " | ".join(worlds) + " | verdict then |"]
    lines.append("|---" * (len(worlds) + 3) + "|")
    for row in found["alternatives"]:
        intervals = (dict(zip(("estimate", "low", "high"), row[world], strict=True)) for world in worlds)
        numbers = " | ".join(estimate({"digits": 3}, interval) for interval in intervals)
        lines.append(f"| `{row['claim']}` | {row['statistic']} | {numbers} | {row['verdict']} |")
    covered = found["share_of_norms_with_a_checkpoint"]["style"]
    passes = resolve_preset("line_search").passes
    return WEAK.format(table="\n".join(lines), covered=sum(covered) / len(covered), passes=passes)


def _worlds(studied: list[str]) -> str:
    """Name the worlds, and those that the plan has and that are to be done."""
    left = [world for world in make_plan("short").worlds if world not in studied]
    names = f"of the world{'s' if len(studied) > 1 else ''} {', '.join(f'`{world}`' for world in studied)}"
    return f"{names} (still to be done: {', '.join(f'`{world}`' for world in left)})" if left else names


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--study", type=Path, help="directory that `effopd study` wrote; by default the committed records"
    )
    study = parser.parse_args().study
    if study is not None:
        write_json(RECORDS, read_json(study / "claims.json"))
    write_text(PAGE, page(json.loads(RECORDS.read_text())))


if __name__ == "__main__":
    main()
