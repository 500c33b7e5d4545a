"""Rollouts, seconds and harm of methods over learning rate, prompts per step and worlds.

    python benchmarks/grid.py                                # every stage of grid.yaml, about 14 core-hours
    python benchmarks/grid.py --stage vanilla vanilla-best --world style
    python benchmarks/grid.py --report-only                  # only the tables, figures and pages, from what is finished

Two single-threaded worker processes train on the embedded worlds. Every finished run leaves one JSON file in
OUT/WORLD; the same command continues after an interruption. The report goes to benchmarks/results and
docs/when_does_it_help.md.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

os.environ.update(OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1")

from grid_plan import Plan
from grid_report import write_report
from run_records import Record
from training_runs import NUM_WORKERS, do_runs, minutes, read_records, workers

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parents[1] / "docs" / "when_does_it_help.md"
WORK = "work"  # folder of the runs under way, beside the worlds


def finished(plan: Plan, worlds: Sequence[str], out: Path) -> tuple[dict[str, Record], str]:
    """Records of the plan's runs that are finished, and a note on what is missing, or an empty one."""
    records: dict[str, Record] = {}
    while True:  # finished runs decide which others are planned
        runs, unknown = plan.all_runs(worlds, records.values())
        found = read_records(runs.values(), out)
        if found.keys() == records.keys():
            break
        records = found
    missing = len(runs) - len(records)
    if not missing and not unknown:
        return records, ""
    note = f"**Not finished: {missing} of {len(runs)} planned runs are to be done"
    return records, note + (f", and {len(unknown)} stages depend on them" if unknown else "") + ".**"


def do_stages(plan: Plan, stages: Sequence[str], worlds: Sequence[str], out: Path) -> None:
    """Do the runs of the stages in their order, all worlds of a stage at a time. A failure does not stop the others."""
    failures = []
    with workers() as executor:
        from grid_run import do_run

        for stage in stages:
            records, _ = finished(plan, worlds, out)
            planned = {world: plan.runs(stage, world, records.values()) for world in worlds}
            waiting = [world for world, runs in planned.items() if runs is None]
            if waiting:
                print(f"{stage} in {', '.join(waiting)} depends on earlier stages, which are not finished.", flush=True)
            runs = [run for each in planned.values() if each for run in each]
            print(f"Stage {stage}:", flush=True)
            try:
                do_runs(executor, do_run, runs, out, out / WORK, 1.0)
            except SystemExit as error:
                failures.append(f"{stage}: {error}")
    if failures:
        raise SystemExit("\n".join(failures))


def print_plan(plan: Plan, worlds: Sequence[str], out: Path) -> None:
    """Say what each stage is expected to take. Of stages that depend on unfinished ones, nothing is known yet."""
    records, _ = finished(plan, worlds, out)
    counted = set(records)
    total = 0.0
    for stage in plan.stages:
        each = [plan.runs(stage, world, records.values()) for world in worlds]
        new = {run.name: run.expected_cost for runs in each for run in runs or () if run.name not in counted}
        counted |= new.keys()
        total += sum(new.values())
        later = ", and more that depends on earlier stages" if None in each else ""
        print(f"{stage:24} {len(new):4} runs to do, about {sum(new.values()) / 3600:.1f} core-hours{later}")
    print(f"In all about {total / 3600:.1f} core-hours, {minutes(total / NUM_WORKERS)} with {NUM_WORKERS} workers.")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Cost and harm of methods over learning rate, prompts and worlds.")
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/grid-runs; with --quick, runs/grid-quick")
    parser.add_argument("--stage", nargs="+", metavar="NAME", help="stages of grid.yaml to do; default: all")
    parser.add_argument("--world", nargs="+", metavar="NAME", help="worlds to do; default: all of grid.yaml")
    parser.add_argument("--results", type=Path, help="default: benchmarks/results; with --quick, OUT/results")
    parser.add_argument("--page", type=Path, help=f"default: docs/{PAGE.name}; with --quick, OUT/results/{PAGE.name}")
    parser.add_argument("--quick", action="store_true", help="a few tiny runs with a low target: a smoke test")
    parser.add_argument("--report-only", action="store_true", help="only report the runs that are finished")
    parser.add_argument("--plan-only", action="store_true", help="only print what is to be done, and the estimate")
    options = parser.parse_args(arguments)
    plan = Plan.read(quick=options.quick)
    out = options.out or (Path("runs/grid-quick") if options.quick else RESULTS / "grid-runs")
    results = options.results or (out / "results" if options.quick else RESULTS)
    page = options.page or (results / PAGE.name if options.quick else PAGE)
    for kind, asked, known in (("stage", options.stage, plan.stages), ("world", options.world, plan.worlds)):
        if unknown := sorted(set(asked or ()) - set(known)):
            parser.error(f"--{kind}: got {', '.join(unknown)}, expected some of {', '.join(known)}")
    worlds = [world for world in plan.worlds if world in (options.world or plan.worlds)]
    stages = [stage for stage in plan.stages if stage in (options.stage or plan.stages)]
    if not options.world and not options.report_only:
        for world in [each for each in worlds if not plan.is_built(each)]:
            print(f"The world {world} is not built, and left out. To build it: effopd world build --name {world}")
            worlds.remove(world)
    if options.plan_only:
        print_plan(plan, worlds, out)
        return
    if not options.report_only:
        print_plan(plan, worlds, out)
        do_stages(plan, stages, worlds, out)
    begun = [world for world in plan.worlds if any((out / world).glob("*.json"))]
    records, note = finished(plan, begun, out)
    if not records:
        raise SystemExit(f"{out} holds no finished runs. Leave out --report-only to do them.")
    if begun != list(plan.worlds):
        others = ", ".join(world for world in plan.worlds if world not in begun)
        note = " ".join(filter(None, [note, f"**Not begun: {others}.**"]))
    command = "python benchmarks/grid.py" + (" --quick" if options.quick else "")
    write_report(list(records.values()), plan, results, page, command, note)
    print(f"Wrote {results}/grid.json, grid.md, a figure for each world, and {page}.")


if __name__ == "__main__":
    main()
