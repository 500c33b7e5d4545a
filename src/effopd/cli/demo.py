"""`effopd demo`: what EffOPD saves, on a task that is part of the package."""

import argparse
from pathlib import Path

from effopd.cli.options import Commands, positive


def add(commands: Commands) -> None:
    """Add the command and its options."""
    parser = commands.add_parser(
        "demo", help="compare vanilla OPD with EffOPD on the embedded task, in minutes on a CPU"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("runs/demo"), metavar="DIR", help="where the runs go; default: %(default)s"
    )
    parser.add_argument(
        "--seeds", type=positive, default=1, metavar="N", help="train with the seeds 0 to N-1; default: %(default)s"
    )
    parser.add_argument(
        "--learning-rate",
        type=float,
        nargs="+",
        default=None,
        metavar="X",
        help="learning rates to compare; one by default",
    )
    parser.add_argument("--quick", action="store_true", help="train to a lower target: a smoke test in under a minute")
    parser.set_defaults(call=_demo)


def _demo(options: argparse.Namespace) -> None:
    from effopd.experiments.demo import run_demo

    run_demo(options.out, seeds=options.seeds, learning_rates=options.learning_rate, quick=options.quick)
