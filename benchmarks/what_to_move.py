"""What to move: freezing, guided extrapolation, other starts and teachers, and whether gains multiply.

    python benchmarks/what_to_move.py                  # all parts, seeds 0 to 2; continues where it was stopped
    python benchmarks/what_to_move.py --part freezing --world style --seeds 0 1 2 --workers 1
    python benchmarks/what_to_move.py --report-only    # nothing new: the same tables, from the committed runs

Single-threaded worker processes train on the embedded worlds to a target accuracy. Every finished run leaves one JSON
file in OUT/WORLD. The report goes to results/what_to_move.{json,md}.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

os.environ.update(OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1")

import training_runs
from run_records import Record
from training_runs import do_runs, read_records, workers
from what_to_move_report import PARTS, write_report
from what_to_move_run import Run, do_run, prepare

RESULTS = Path(__file__).parent / "results"
SECONDS_PER_ROLLOUT = 0.013  # CPU seconds, those of evaluation and loading included
SEEDS = (0, 1, 2)


class World(NamedTuple):
    """What runs in a world share. A cell is a learning rate and a number of prompts per step.

    `best` is vanilla's best cell, in which freezing has to keep up. The other parts are in `careful`, since at the best
    rate there is nothing for EffOPD to gain.
    """

    best: tuple[float, int]
    careful: tuple[float, int]
    target_accuracy: float
    weak_target: float | None
    limit: int


# Targets are base + 0.9 (teacher - base), rounded to two decimals; `weak_target` is that of the weaker teacher,
# which has 0.923 in `style`. In the others it has not been measured, and those arms are left out.
WORLDS = {
    "style": World((1e-3, 32), (3e-4, 64), 0.95, 0.89, 4096),
    "sibling": World((3e-3, 64), (1e-3, 64), 0.93, None, 16384),
    "facts": World((3e-3, 64), (1e-3, 64), 0.92, None, 16384),
}
# Chosen with seed 100: the length of the completions, and 0.6 as the middle of the cosines that parameters had there.
SEARCH: dict[str, Any] = {"acceleration": "line_search", "evaluate_every": 1}  # arrives after some steps
ARMS: dict[str, dict[str, Any]] = {
    "vanilla": {},
    "paper": {"acceleration": "paper"},
    "frozen-low": {"frozen": "low"},
    "frozen-random": {"frozen": "random"},
    "frozen-high": {"frozen": "high"},
    "paper-utility": {"acceleration": "paper", "extrapolation": {"guide": "utility:1"}},
    "paper-alignment": {"acceleration": "paper", "extrapolation": {"guide": "alignment:0.6"}},
    "weak-vanilla": {"teacher": "weak"},
    "weak-paper": {"teacher": "weak", "acceleration": "paper"},
    "sft-vanilla": {"start": "sft"},
    "sft-paper": {"start": "sft", "acceleration": "paper"},
    "passes": SEARCH | {"extrapolation": {"passes": 4, "scales": []}},
    "search": SEARCH | {"extrapolation": {"passes": 1}},
    "search-passes": SEARCH | {"extrapolation": {"passes": 4}},
    "short": {"tokens": 4},
    "search-short": SEARCH | {"extrapolation": {"passes": 1}, "tokens": 4},
    "paper-frozen-low": {"acceleration": "paper", "frozen": "low"},
}


def planned(part: str, world: str, seeds: Sequence[int], quick: bool = False) -> list[Run]:
    """The runs of a part of the benchmark; parts share some of them."""
    runs = []
    cell = WORLDS[world].best if part == "freezing" else WORLDS[world].careful
    for arm in PARTS[part]:
        settings: dict[str, Any] = {"learning_rate": cell[0], "prompts_per_step": cell[1], "evaluation_problems": 256}
        settings |= {"limit": WORLDS[world].limit, "target_accuracy": WORLDS[world].target_accuracy}
        if ARMS[arm].get("teacher") == "weak":
            if WORLDS[world].weak_target is None:
                continue
            settings["target_accuracy"] = WORLDS[world].weak_target
        if quick:
            settings |= {"prompts_per_step": 16, "target_accuracy": 0.6, "limit": 64, "evaluation_problems": 16}
        runs += [Run(world=world, arm=arm, seed=seed, **settings, **ARMS[arm]) for seed in seeds]
    return runs


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS), help="default: all")
    parser.add_argument(
        "--world", nargs="+", choices=WORLDS, default=["style", "sibling"], help="default: style sibling"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS), help="default: 0 1 2")
    parser.add_argument("--workers", type=int, default=training_runs.NUM_WORKERS, help="processes (default: 2)")
    parser.add_argument("--out", type=Path, help="default: results/what-to-move-runs; with --quick, runs/what-to-move")
    parser.add_argument("--results", type=Path, help="default: benchmarks/results; with --quick, OUT/results")
    parser.add_argument("--quick", action="store_true", help="tiny runs that learn nothing: a smoke test")
    parser.add_argument("--report-only", action="store_true", help="only report the runs that are finished")
    options = parser.parse_args(arguments)
    training_runs.NUM_WORKERS = options.workers
    out = options.out or (Path("runs/what-to-move") if options.quick else RESULTS / "what-to-move-runs")
    results = options.results or (out / "results" if options.quick else RESULTS)
    runs = {
        run.name: run
        for world in options.world
        for part in options.part
        for run in planned(part, world, options.seeds, options.quick)
    }
    if not options.report_only:
        for world in options.world:
            prepare(world, WORLDS[world].careful, out / "work" / world / "made")
        with workers() as executor:
            do_runs(executor, do_run, list(runs.values()), out, out / "work", SECONDS_PER_ROLLOUT)
    parts: dict[tuple[str, str], list[Record]] = {}
    for world in WORLDS:  # all that there are, whatever was asked for now
        seeds = sorted({int(path.stem.rpartition("-s")[2]) for path in (out / world).glob("*.json")})
        for part in PARTS:
            found = read_records(planned(part, world, seeds, options.quick), out)
            if found:
                parts[world, part] = list(found.values())
    if not parts:
        raise SystemExit(f"{out} holds no finished runs. Leave out --report-only to do them.")
    missing = len(runs) - len(read_records(runs.values(), out))
    note = f"**Not finished: {missing} of {len(runs)} runs.**" if missing else ""
    command = "python benchmarks/what_to_move.py" + (" --quick" if options.quick else "")
    write_report(parts, results, command, note)


if __name__ == "__main__":
    main()
