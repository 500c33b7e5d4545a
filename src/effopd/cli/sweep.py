"""`effopd sweep`: many interventions on the checkpoints of many runs, evaluated, with figures."""

import argparse
from dataclasses import replace
from pathlib import Path

from effopd.cli.options import Commands, positive
from effopd.errors import EffOPDError


def add(commands: Commands) -> None:
    """Add the command and its options."""
    parser = commands.add_parser(
        "sweep",
        help="runs x interventions x values x tasks x seeds, with figures",
        epilog="An interrupted sweep is continued by the same command. See docs/sweeps.md.",
    )
    parser.add_argument(
        "spec", metavar="SPEC.yaml", help="a file, or the name of a specification that ships with effopd"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where results and figures go")
    parser.add_argument(
        "--root", metavar="DIR", help="where the runs' relative paths start; default: the file's `root`"
    )
    parser.add_argument("--quick", action="store_true", help="fewer problems, checkpoints, values and sampling seeds")
    parser.add_argument("--workers", type=positive, metavar="N", help="default: one per processor or share of a GPU")
    parser.add_argument(
        "--gpus-per-worker", type=float, default=0.0, metavar="G", help="0.5: two share one; default: 0"
    )
    parser.add_argument("--address", metavar="ADDR", help="of a Ray cluster; default: Ray is started on this machine")
    parser.set_defaults(call=_sweep)


def _sweep(options: argparse.Namespace) -> None:
    from effopd.sweeps import read_spec, sweep

    spec = read_spec(options.spec)
    if options.root:
        spec = replace(spec, root=options.root)
    result = sweep(
        spec.quick() if options.quick else spec,
        options.out,
        workers=options.workers,
        address=options.address,
        gpus_per_worker=options.gpus_per_worker,
    )
    print(f"{result.directory}: {result.num_cells} cells, {len(result.written)} figures and tables")
    if result.failed:
        raise EffOPDError(
            f"{len(result.failed)} of {result.num_cells} cells failed, and are not in the figures; the first: "
            f"{result.failed[0]}. All of them: {result.directory / 'failed.jsonl'}. The same command tries them again."
        )
