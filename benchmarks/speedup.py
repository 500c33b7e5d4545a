"""Cost of reaching a target accuracy: vanilla OPD and three EffOPD rules over the whole range of learning rates.

    python benchmarks/speedup.py --out runs/speedup            # about two hours on two idle cores
    python benchmarks/speedup.py --out runs/speedup --report-only

Two single-threaded worker processes train on the embedded world. Every finished run leaves one JSON file in
OUT/runs; the same command continues after an interruption. Tables and figure go to benchmarks/results.
"""

import argparse
import gc
import math
import os
import shutil
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

os.environ.update(OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1")

from speedup_report import USUAL_STEP, write_report
from training_runs import (
    NUM_WORKERS,
    CPUClock,
    arguments_to_target,
    costs_to_target,
    course,
    do_runs,
    read_records,
    workers,
)

METHODS = ("vanilla", "paper", "reference", "adaptive")
LEARNING_RATES = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3)  # two decades, and one above the best, to show that it is
COMMON_RATE = 1e-4  # at which every method is run with large steps
# Cells cut for time: at the rates where these rules take longest, fewer seeds, given up after fewer rollouts.
CUT = {("paper", 1e-5): (3, 40_000), ("reference", 1e-5): (3, 40_000), ("reference", 3e-5): (3, 60_000)}
# The same for large steps, of every method but vanilla.
LARGE_LIMIT = 40_000
# Rollouts to 0.95 seen in trial runs, by learning rate: only decides what to start first, and the first estimate.
EXPECTED = {
    "vanilla": {1e-5: 100_000, 3e-5: 80_000, 1e-4: 23_000, 3e-4: 8_000, 1e-3: 3_000},
    "paper": {1e-5: 90_000, 3e-5: 33_000, 1e-4: 11_000, 3e-4: 3_500, 1e-3: 2_500},
    "reference": {1e-5: 100_000, 3e-5: 60_000, 1e-4: 14_000, 3e-4: 5_000, 1e-3: 2_500},
    "adaptive": {1e-5: 2_000},
}


@dataclass(frozen=True)
class Run:
    """One training run: everything that decides its outcome but the versions of the packages.

    Records of before a setting existed lack it: their runs had its default.
    """

    method: str
    learning_rate: float
    prompts_per_step: int
    seed: int
    target_accuracy: float = 0.95
    limit: int = 100_000
    evaluation_problems: int = 512
    estimator: str = "full_vocab"

    @property
    def name(self) -> str:
        estimator = "" if self.estimator == "full_vocab" else f"-{self.estimator}"
        return f"{self.method}{estimator}-lr{self.learning_rate:g}-b{self.prompts_per_step}-s{self.seed}"

    @property
    def expected_cost(self) -> float:
        table = EXPECTED[self.method]
        nearest = min(table, key=lambda rate: abs(math.log(rate / self.learning_rate)))
        return table[nearest] * max(1.0, self.prompts_per_step / 300)


@dataclass(frozen=True)
class Plan:
    """What the benchmark consists of."""

    learning_rates: tuple[float, ...] = LEARNING_RATES
    seeds: int = 5
    large_steps: int = 1024
    small_steps: int = 32
    other_seeds: int = 3
    target_accuracy: float = 0.95
    limit: int = 100_000
    sampled_learning_rates: tuple[float, ...] = LEARNING_RATES[2:5]

    def runs(self) -> list[Run]:
        return [
            Run(method, rate, 256, seed, self.target_accuracy, limit)
            for method in METHODS
            for rate in self.learning_rates
            for seeds, limit in [CUT.get((method, rate), (self.seeds, self.limit))]
            for seed in range(seeds)
        ]

    def sampled_runs(self) -> list[Run]:
        """With the paper's own estimator, a policy gradient, in place of the exact KL over the vocabulary."""
        return [
            Run(method, rate, 256, seed, self.target_accuracy, self.limit, estimator="sampled")
            for method in ("vanilla", "paper")
            for rate in self.sampled_learning_rates
            for seed in range(self.other_seeds)
        ]

    def other_step_runs(self, records: Iterable[dict[str, Any]]) -> list[Run]:
        """With large steps, at the common rate, at each method's best one with 256 prompts, and at the highest.

        With small ones, at the three highest rates, and with a tenth of the rollouts, which is far more than they need;
        at the very highest only vanilla, which does not get there.
        """
        from speedup_report import best_learning_rates

        best, highest = best_learning_rates(records), self.learning_rates[-3:]
        batches = {
            self.large_steps: (self.limit, {method: {COMMON_RATE, best[method], highest[-1]} for method in METHODS}),
            self.small_steps: (
                self.limit // 10,
                {method: set(highest if method == "vanilla" else highest[:-1]) for method in METHODS},
            ),
        }
        return [
            Run(
                method,
                rate,
                prompts,
                seed,
                self.target_accuracy,
                limit if method == "vanilla" else min(limit, LARGE_LIMIT),
            )
            for prompts, (limit, rates) in batches.items()
            for method in METHODS
            for rate in sorted(rates[method])
            for seed in range(self.other_seeds)
        ]


QUICK = Plan(
    learning_rates=(1e-3,),
    sampled_learning_rates=(1e-3,),
    seeds=1,
    large_steps=512,
    other_seeds=1,
    target_accuracy=0.8,
    limit=3_000,
)


def do_run(run: Run, directory: Path) -> dict[str, Any]:
    """Train, in a worker process; returns the record."""
    from effopd.training.quiet import quiet_libraries
    from effopd.training.run import train, versions
    from effopd.training.stopping import EvaluateNearTarget, StopAtRollouts
    from effopd.world import world_reward

    started = time.perf_counter()
    clock = CPUClock()

    def callbacks(trainer: Any, metrics: Any) -> list[Any]:
        from transformers import PrinterCallback

        trainer.remove_callback(PrinterCallback)
        clock.watch(trainer)
        return [
            EvaluateNearTarget(trainer, run.target_accuracy, world_reward),
            StopAtRollouts(metrics, run.limit),
        ]

    shutil.rmtree(directory, ignore_errors=True)
    acceleration = "none" if run.method == "vanilla" else run.method
    arguments, config = arguments_to_target(run, directory, acceleration=acceleration)
    config.estimator = run.estimator
    with quiet_libraries():
        rows = train(arguments, config, callbacks)
    shutil.rmtree(directory)
    gc.collect()
    result = costs_to_target(rows, run.target_accuracy, clock)
    return {
        "run": asdict(run),
        **result,
        **course(rows, clock, started),
        "versions": versions(),
    }


def measure_rate(executor: ProcessPoolExecutor, out: Path) -> float:
    """Seconds per rollout on an idle core, from a few steps on every worker at a time."""
    trials = [Run("vanilla", COMMON_RATE, 256, seed, 1.0, 8 * 256) for seed in range(NUM_WORKERS)]
    record, *_ = executor.map(do_run, trials, [out / "work" / f"trial-{run.seed}" for run in trials])
    spent = record["spent"]
    steps, rollouts = spent["steps_to_target"], spent["rollouts_to_target"]
    wall, cpu = spent["seconds_to_target"], spent["cpu_seconds_to_target"]
    evaluation = record["evaluation_cpu_seconds"] / len(record["evaluations"])
    print(
        f"One thread: {cpu / steps:.2f} s of CPU per step of 256 prompts ({wall / steps:.2f} s of wall time now), "
        f"{evaluation:.2f} s per evaluation. The estimate is for idle cores.",
        flush=True,
    )
    return float(cpu / rollouts) * 1.2  # evaluations and loading


def main() -> None:
    parser = argparse.ArgumentParser(description="Cost of reaching a target accuracy, with and without EffOPD.")
    parser.add_argument("--out", type=Path, default=Path("runs/speedup"), help="default: %(default)s")
    parser.add_argument(
        "--results", type=Path, help="default: benchmarks/results beside this file; with --quick, OUT/results"
    )
    parser.add_argument("--quick", action="store_true", help="one learning rate and seed, a low target: a smoke test")
    parser.add_argument("--report-only", action="store_true", help="only aggregate the runs that are finished")
    options = parser.parse_args()
    plan = QUICK if options.quick else Plan()
    results = options.results or (options.out / "results" if options.quick else Path(__file__).parent / "results")
    usual = plan.runs()
    first = usual + plan.sampled_runs()
    directory, work = options.out / "runs", options.out / "work"
    if not options.report_only:
        with workers() as executor:
            measure = partial(measure_rate, executor, options.out)
            rate = do_runs(executor, do_run, first, directory, work, measure)
            others = plan.other_step_runs(read_records(usual, directory).values())
            do_runs(executor, do_run, others, directory, work, rate or measure)
    records = read_records(first, directory)
    if not records:
        raise SystemExit(f"{options.out} holds no finished runs. Leave out --report-only to do them.")
    missing = len(first) - len(records)
    if missing:
        note = f"{missing} of the {len(first)} runs with {USUAL_STEP} prompts a step, and all others, are to be done."
    else:
        others = plan.other_step_runs(read_records(usual, directory).values())
        records |= read_records(others, directory)
        missing = len(first) + len(others) - len(records)
        note = f"{missing} of the {len(others)} runs with more or fewer prompts per step are still to do."
    command = "python benchmarks/speedup.py" + (" --quick" if options.quick else "")
    write_report(list(records.values()), results, command, f"**Not finished: {note}**" if missing else "")
    print(f"Wrote {results}/speedup.json, .md, .svg and .png.")


if __name__ == "__main__":
    main()
