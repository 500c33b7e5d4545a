"""`effopd world`: the models of the task that is part of the package, and runs on it."""

import argparse
from pathlib import Path

from effopd.cli.options import Commands, positive


def add(commands: Commands) -> None:
    """Add the command, its actions and their options."""
    world = commands.add_parser("world", help="build the embedded world, or train on it")
    actions = world.add_subparsers(dest="action", required=True, metavar="ACTION")
    build = actions.add_parser("build", help="pretrain a base from random weights, and make its teacher")
    build.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the world goes")
    build.add_argument("--seed", type=int, default=0, metavar="N", help="random seed; default: %(default)s")
    build.set_defaults(call=_build_world)
    runs = actions.add_parser("runs", help="train with OPD, EffOPD and GRPO from the base, and keep the checkpoints")
    runs.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the runs go")
    runs.add_argument(
        "--seeds", type=positive, default=3, metavar="N", help="train with the seeds 0 to N-1; default: %(default)s"
    )
    runs.set_defaults(call=_world_runs)


def _build_world(options: argparse.Namespace) -> None:
    from effopd.world import build_world

    build_world(options.out, seed=options.seed)


def _world_runs(options: argparse.Namespace) -> None:
    from effopd.experiments.world_runs import world_runs

    world_runs(options.out, seeds=options.seeds)
