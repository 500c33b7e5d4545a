"""`effopd world`: the models of the task that is part of the package, and runs on it."""

import argparse
from pathlib import Path

from effopd.cli.options import Commands, not_negative, positive
from effopd.errors import ConfigurationError


def add(commands: Commands) -> None:
    """Add the command, its actions and their options."""
    world = commands.add_parser("world", help="build the embedded world, or train on it")
    actions = world.add_subparsers(dest="action", required=True, metavar="ACTION")
    build = actions.add_parser("build", help="pretrain a base from random weights, and make its teacher")
    build.add_argument("--name", metavar="NAME", help="a named world, measured too; docs/world.md lists them")
    build.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="where the world goes; default with --name, of worlds that do not come with the package: where "
        "world:NAME/base is looked for, $EFFOPD_HOME/worlds/NAME",
    )
    build.add_argument(
        "--seed", type=not_negative, metavar="N", help="random seed of a world without a name; default: 0"
    )
    build.set_defaults(call=_build_world)
    runs = actions.add_parser("runs", help="train with OPD, EffOPD and GRPO from the base, and keep the checkpoints")
    runs.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the runs go")
    runs.add_argument(
        "--seeds", type=positive, default=3, metavar="N", help="train with the seeds 0 to N-1; default: %(default)s"
    )
    runs.set_defaults(call=_world_runs)


def _build_world(options: argparse.Namespace) -> None:
    from effopd.world import build_named_world, build_world

    if options.name is not None:
        if options.seed is not None:
            raise ConfigurationError(f"--seed {options.seed}: the world {options.name} has a seed; leave --seed out.")
        build_named_world(options.name, options.out)
    elif options.out is None:
        raise ConfigurationError("Pass --name NAME for a named world, or --out DIR for one like `style`.")
    else:
        build_world(options.out, seed=options.seed or 0)


def _world_runs(options: argparse.Namespace) -> None:
    from effopd.experiments.world_runs import world_runs

    world_runs(options.out, seeds=options.seeds)
