"""Do signals of the weight update, seen early, predict how a run ends?

    python benchmarks/diagnostics.py                  # the runs, then the report; continues where it was stopped
    python benchmarks/diagnostics.py --report-only    # nothing new: the same tables, from the committed runs

Two single-threaded worker processes train on the embedded worlds, at learning rates some of which are too high. After
an eighth and a quarter of each run, the signals of `UpdateMonitorCallback` and `effopd analyze` are taken; at its end,
its accuracy, what a jump along its update costs, and whether its accuracy fell on the way. Every finished run leaves
one JSON file in OUT. The report goes to results/diagnostics.{json,md}.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

os.environ.update(OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1")

from diagnostics_report import write_report
from diagnostics_run import Run, do_run
from run_records import Record
from training_runs import do_runs, read_records, workers

RESULTS = Path(__file__).parent / "results"
RATES = {"style": (1e-4, 3e-4, 1e-3, 3e-3, 6e-3, 1e-2), "sibling": (1e-3, 3e-3, 1e-2)}
SEEDS = {"style": range(100, 105), "sibling": range(100, 104)}
STEPS, PROMPTS, PROBLEMS = 16, 64, 600
SECONDS_PER_COMPLETION = 0.0014  # on one idle core


def planned(quick: bool) -> dict[str, list[Run]]:
    """The runs of each world."""
    if quick:
        return {"style": [Run("style", rate, seed, 16, 8, 20) for rate in (1e-3, 1e-2) for seed in (0, 1, 2)]}
    return {
        world: [Run(world, rate, seed, STEPS, PROMPTS, PROBLEMS) for seed in SEEDS[world] for rate in rates]
        for world, rates in RATES.items()
    }


def describe(record: Record) -> str:
    """Say in one line how a run ended."""
    jumped = ", ".join(f"{value:.3f} at x{factor}" for factor, value in record["jumped_accuracy"].items())
    end = "diverged" if record["diverged"] else "unstable" if record["unstable"] else "stable"
    return (
        f"{end}, accuracy {record['final_accuracy']:.3f}; {jumped or 'no jumps'}; {record['cpu_seconds']:.0f} s of CPU"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="default: results/diagnostics-runs; with --quick, runs/diagnostics")
    parser.add_argument("--results", type=Path, help="default: benchmarks/results; with --quick, OUT/results")
    parser.add_argument("--quick", action="store_true", help="six tiny runs: a smoke test")
    parser.add_argument("--report-only", action="store_true", help="only report the runs that are finished")
    options = parser.parse_args(arguments)
    out = options.out or (Path("runs/diagnostics") if options.quick else RESULTS / "diagnostics-runs")
    results = options.results or (out / "results" if options.quick else RESULTS)
    runs = planned(options.quick)
    if not options.report_only:
        with workers() as executor:
            for of_world in runs.values():
                do_runs(executor, do_run, of_world, out, out / "work", SECONDS_PER_COMPLETION, describe)
    every = [run for of_world in runs.values() for run in of_world]
    records = list(read_records(every, out).values())
    if not records:
        raise SystemExit(f"{out} holds no finished runs. Leave out --report-only to do them.")
    command = "python benchmarks/diagnostics.py" + (" --quick" if options.quick else "")
    note = "" if len(records) == len(every) else f"**Not finished: {len(every) - len(records)} of {len(every)} runs.**"
    write_report(records, results, command, note)


if __name__ == "__main__":
    main()
