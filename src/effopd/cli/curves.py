"""`effopd curves`: accuracy against optimizer steps."""

import argparse
from pathlib import Path

from effopd.cli.options import Commands, by_name, named_places


def add(commands: Commands) -> None:
    """Add the command and its options."""
    parser = commands.add_parser(
        "curves",
        help="draw accuracy against steps, for several runs and benchmarks",
        epilog="A DIR holds, at any depth, what `effopd evaluate` wrote for checkpoints, or is a run of `effopd train`."
        " Several DIR of one NAME, such as seeds, are averaged. See docs/evaluation.md.",
    )
    details = {"action": "append", "type": named_places, "metavar": "NAME=DIR[,DIR...]"}
    parser.add_argument(
        "--run", dest="runs", required=True, help="evaluations of a run; give the option once for each run", **details
    )
    parser.add_argument(
        "--baseline",
        dest="baselines",
        default=[],
        help="evaluations of a baseline, whose final accuracy is a dashed line; may be given several times",
        **details,
    )
    parser.add_argument("--base", type=Path, metavar="DIR", help="evaluations of the base, which is every run's step 0")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="PATH", help="where PATH.svg, .pdf, .png and .md (a table) go"
    )
    parser.set_defaults(call=_curves)


def _curves(options: argparse.Namespace) -> None:
    from effopd.curves import draw_curves

    baselines = by_name(options.baselines, "baseline")
    draw_curves(by_name(options.runs, "run"), options.out, baselines=baselines, base=options.base)
