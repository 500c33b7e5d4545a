"""`effopd analyze`: what training did to the weights."""

import argparse
import os
from pathlib import Path

from effopd.cli.options import Commands, by_name, keywords, named_places, positive


def add(commands: Commands) -> None:
    """Add the command and its options."""
    parser = commands.add_parser(
        "analyze",
        help="measure what training did to the weights, from a base and checkpoints",
        epilog="After an interruption, the same command continues the analysis. See docs/analysis.md.",
    )
    parser.add_argument(
        "--base", required=True, metavar="MODEL", help="model that the runs started from: a directory or hub name"
    )
    parser.add_argument(
        "--run",
        dest="runs",
        required=True,
        action="append",
        type=named_places,
        metavar="NAME=DIR[,DIR...]",
        help="run to measure: a directory of checkpoint-N folders, a model or a LoRA adapter, or several of these; "
        "give the option once for each run",
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="where tables, figures and the report go"
    )
    parser.add_argument(
        "--ignore",
        action="append",
        default=[],
        metavar="PATTERN",
        help="regular expression for names of parameters to leave out; may be given several times",
    )
    parser.add_argument(
        "--text",
        type=Path,
        metavar="FILE",
        help="text whose tokens the embedding shift is measured for; default: all tokens",
    )
    parser.add_argument(
        "--sweep", type=Path, metavar="DIR", help="finished sweep of these runs, for a section of the report"
    )
    parser.add_argument(
        "--workers", type=positive, default=1, metavar="N", help="number of processes; default: %(default)s"
    )
    parser.add_argument("--device", default="cpu", help="device that computes, cpu or cuda; default: %(default)s")
    parser.add_argument(
        "--precision",
        choices=("float64", "float32"),
        default="float64",
        help="precision of the computation; float32 is faster, and the tables state its error; default: %(default)s",
    )
    parser.set_defaults(call=_analyze)


def _analyze(options: argparse.Namespace) -> None:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # torch reads it when it loads: each worker is to use one thread
    from effopd.analysis import analyze

    analyze(**keywords(options) | {"runs": by_name(options.runs, "run")})
