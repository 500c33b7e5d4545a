"""`effopd train`: distill a student from a teacher, or train it by reinforcement learning."""

import argparse

from effopd.cli.options import Commands


def add(commands: Commands) -> None:
    """Add the command and its options. `main` passes on what the parser does not know as `overrides`."""
    parser = commands.add_parser(
        "train",
        help="distill a student from a teacher, or train it by reinforcement learning, from a YAML file",
        epilog="To override a field of the file, add --field value. docs/training.md describes the fields.",
    )
    parser.add_argument(
        "config", metavar="CONFIG.yaml", help="YAML file, or the name of a recipe that comes with effopd"
    )
    parser.set_defaults(call=_train)


def _train(options: argparse.Namespace) -> None:
    import torch.distributed as dist

    from effopd.training.config_file import parse_config
    from effopd.training.run import train

    train(*parse_config(options.config, options.overrides))
    if dist.is_initialized():  # else the backends' threads may still run while the interpreter ends
        dist.destroy_process_group()
