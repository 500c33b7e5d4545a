"""LoRA: extrapolating the product of the factors, beside the factors each, folding into the base, and no extrapolation.

    python benchmarks/lora.py                # all runs, seeds 0 to 2; continues where it was stopped
    python benchmarks/lora.py --report-only  # nothing new: the same tables, from the committed runs

Single-threaded worker processes train an adapter on the world `style` to a target accuracy. Every finished run leaves
one JSON file in OUT/WORLD. The report goes to results/lora.{json,md}.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.update(OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1")

import training_runs
from lora_report import write_report
from lora_run import Run, do_run
from training_runs import do_runs, read_records, workers

RESULTS = Path(__file__).parent / "results"
SECONDS_PER_ROLLOUT = 0.01  # CPU seconds, those of evaluation and loading included
SEEDS = (0, 1, 2)
WORLD = "style"
SETTINGS: dict[str, Any] = {
    "prompts_per_step": 64,
    "target_accuracy": 0.90,
    "evaluation_problems": 256,
}
LIMITS = {1e-4: 4096, 1e-3: 8192, 1e-2: 8192}
# Cut for time: at this rate, only line search comes near the target within 4,096 rollouts. The others have one seed.
SLOW = 1e-4
QUICK: dict[str, Any] = {"prompts_per_step": 16, "target_accuracy": 0.6, "evaluation_problems": 16}


def planned(seeds: Sequence[int], quick: bool = False) -> list[Run]:
    """All runs but those that were cut. Line search evaluates after each step, since it arrives after some steps."""
    arms = [("product", "none", 2)]
    for way in ("product", "separate", "folded"):
        arms += [(way, "paper", 2), (way, "line_search", 1)]
    settings = QUICK if quick else SETTINGS
    return [
        Run(WORLD, way, acceleration, seed, rate, evaluate_every=every, limit=64 if quick else limit, **settings)
        for way, acceleration, every in arms
        for rate, limit in LIMITS.items()
        for seed in (seeds[:1] if rate == SLOW and acceleration != "line_search" else seeds)
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS), help="default: 0 1 2")
    parser.add_argument("--workers", type=int, default=training_runs.NUM_WORKERS, help="processes (default: 2)")
    parser.add_argument("--out", type=Path, help="default: results/lora-runs; with --quick, runs/lora")
    parser.add_argument("--results", type=Path, help="default: benchmarks/results; with --quick, OUT/results")
    parser.add_argument("--quick", action="store_true", help="tiny runs that learn nothing: a smoke test")
    parser.add_argument("--report-only", action="store_true", help="only report the runs that are finished")
    options = parser.parse_args(arguments)
    training_runs.NUM_WORKERS = options.workers
    out = options.out or (Path("runs/lora") if options.quick else RESULTS / "lora-runs")
    results = options.results or (out / "results" if options.quick else RESULTS)
    runs = planned(options.seeds, options.quick)
    if not options.report_only:
        with workers() as executor:
            do_runs(executor, do_run, runs, out, out / "work", SECONDS_PER_ROLLOUT)
    seeds = {int(path.stem.rpartition("-s")[2]) for path in (out / WORLD).glob("*.json")}
    records = read_records(planned(sorted(seeds), options.quick), out)  # all there are, whatever was asked for now
    if not records:
        raise SystemExit(f"{out} holds no finished runs. Leave out --report-only to do them.")
    missing = len(runs) - len(read_records(runs, out))
    note = f"**Not finished: {missing} of {len(runs)} runs.**" if missing else ""
    write_report(
        list(records.values()), results, "python benchmarks/lora.py" + (" --quick" if options.quick else ""), note
    )


if __name__ == "__main__":
    main()
