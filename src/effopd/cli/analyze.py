"""`effopd analyze`: what training did to the weights."""

import argparse
import os
from pathlib import Path

from effopd.cli.options import Commands, by_name, keywords, named_places, positive
from effopd.errors import ConfigurationError


def add(commands: Commands) -> None:
    """Add the command and its options."""
    parser = commands.add_parser(
        "analyze",
        help="measure what training did to the weights, from a base and checkpoints",
        epilog="After an interruption, the same command continues the analysis. See docs/analysis.md.",
    )
    parser.add_argument("--base", metavar="MODEL", help="model that the runs started from: a directory or hub name")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--run",
        dest="runs",
        action="append",
        type=named_places,
        metavar="NAME=DIR[,DIR...]",
        help="run to measure: a directory of checkpoint-N folders, a model or a LoRA adapter, or several of these; "
        "give the option once for each run",
    )
    source.add_argument(
        "--spec",
        metavar="SPEC",
        help="specification of a sweep, which names base and runs: a YAML file, or one that comes with effopd",
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
        help="text whose tokens the embedding shift is measured for, or the examples.jsonl of an evaluation of the"
        " base, as in the paper; default: all tokens",
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

    if (options.base is None) == (options.spec is None):
        raise ConfigurationError("Give --base beside --run, and not beside --spec, which names a base itself.")
    if options.spec is not None:
        from effopd.sweeps import read_spec, run_places

        spec = read_spec(options.spec)
        options.base, options.runs = spec.base, list(run_places(spec).items())
    arguments = keywords(options) | {"runs": by_name(options.runs, "run")}
    arguments.pop("spec")
    analyze(**arguments)
