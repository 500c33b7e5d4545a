"""`effopd study`: the paper's claims tested, on the embedded worlds or on one's own models."""

import argparse
from pathlib import Path

from effopd.cli.options import Commands, positive
from effopd.errors import ConfigurationError


def add(commands: Commands) -> None:
    """Add the command and its options."""
    parser = commands.add_parser(
        "study",
        help="test the paper's claims, each with a verdict, on the embedded worlds or on models of yours",
        epilog="After an interruption, the same command continues the study. See docs/study.md.",
    )
    parser.add_argument(
        "spec",
        metavar="SPEC.yaml",
        nargs="?",
        help="base, runs and tasks of yours, as for a sweep; without it, runs are trained on the embedded worlds",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where runs and results go")
    parser.add_argument(
        "--worlds", nargs="+", metavar="NAME", help="embedded worlds; default: style, facts and sibling"
    )
    parser.add_argument(
        "--seeds", type=positive, metavar="N", help="number of seeds of training; default: 5, or 2 with --quick"
    )
    plans = parser.add_mutually_exclusive_group()
    plans.add_argument(
        "--short",
        dest="plan",
        action="store_const",
        const="short",
        default="full",
        help="all worlds, seeds and methods, with shorter runs: hours in place of days",
    )
    plans.add_argument(
        "--quick",
        dest="plan",
        action="store_const",
        const="quick",
        help="one world, two seeds, four methods, short runs: a smoke test that decides little",
    )
    parser.add_argument(
        "--workers",
        type=positive,
        metavar="N",
        help="number of runs and evaluations at a time; default: one for each processor",
    )
    parser.add_argument(
        "--gpus-per-worker",
        type=float,
        default=0.0,
        metavar="G",
        help="GPUs for each worker that evaluates models of yours; with 0.5, two share one; default: 0, on the CPU",
    )
    parser.add_argument(
        "--address", metavar="ADDR", help="address of a Ray cluster whose nodes share DIR; by default Ray runs here"
    )
    parser.set_defaults(call=_study)


def _study(options: argparse.Namespace) -> None:
    from effopd.study import OwnModels, StudyPlan, make_plan, read_own_models, study

    what: StudyPlan | OwnModels

    if options.spec is not None:
        given = {f"--{options.plan}": options.plan != "full", "--worlds": options.worlds, "--seeds": options.seeds}
        if wrong := [name for name, value in given.items() if value]:
            raise ConfigurationError(
                f"{', '.join(wrong)}: these choose what is trained on the embedded worlds, and {options.spec} names"
                " runs that are there. Leave one of the two out."
            )
        what = read_own_models(options.spec)
    else:
        what = make_plan(options.plan, worlds=options.worlds, seeds=options.seeds)
    where = {"address": options.address, "gpus_per_worker": options.gpus_per_worker}
    study(what, options.out, workers=options.workers, **where)
