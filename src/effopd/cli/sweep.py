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
        help="evaluate runs x interventions x values x tasks x seeds, and draw figures",
        epilog="After an interruption, the same command continues the sweep. See docs/sweeps.md.",
    )
    parser.add_argument(
        "spec", metavar="SPEC.yaml", help="YAML file, or the name of a specification that comes with effopd"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where results and figures go")
    parser.add_argument(
        "--root", metavar="DIR", help="directory that relative paths of runs start from; default: `root` in the file"
    )
    parser.add_argument(
        "--quick", action="store_true", help="take fewer problems, checkpoints, values and sampling seeds"
    )
    parser.add_argument(
        "--workers",
        type=positive,
        metavar="N",
        help="number of workers; default: one for each processor, or for each share of a GPU",
    )
    parser.add_argument(
        "--gpus-per-worker",
        type=float,
        default=0.0,
        metavar="G",
        help="GPUs for each worker; with 0.5, two share one; default: 0",
    )
    parser.add_argument(
        "--address", metavar="ADDR", help="address of a Ray cluster; by default Ray is started on this machine"
    )
    parser.add_argument(
        "--limit-cells",
        type=int,
        metavar="N",
        help="stop after N cells, those first that show the course of every curve; 0 only says what is to be done",
    )
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
        limit_cells=options.limit_cells,
    )
    left = f", of which {result.num_left} are left for the same command" if result.num_left else ""
    print(f"{result.directory}: {result.num_cells} cells{left}; {len(result.written)} figures and tables")
    if result.failed:
        raise EffOPDError(
            f"{len(result.failed)} of {result.num_cells} cells failed and are not in the figures. The first is "
            f"{result.failed[0]}. All of them are in {result.directory / 'failed.jsonl'}. The same command tries them "
            "again."
        )
