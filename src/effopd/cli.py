"""The command line: parse, validate, call."""

import argparse
import errno
import sys
from collections.abc import Sequence
from pathlib import Path

from effopd import __version__
from effopd.errors import EffOPDError


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; the exit status is 0 on success, 1 on an error of ours, 2 on wrong usage, 130 on Ctrl-C."""
    parser = _parser()
    options, rest = parser.parse_known_args(argv)
    if rest and options.command != "train":
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        options.run(options, rest)
    except EffOPDError as error:
        print(f"effopd: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            raise
        print(f"effopd: {error}. What was finished is kept; once mended, the same command continues.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\neffopd: interrupted. The same command continues where this one stopped.", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="effopd", description="Efficient on-policy distillation (arXiv 2605.11739).")
    parser.add_argument("--version", action="version", version=f"effopd {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    demo = commands.add_parser("demo", help="vanilla OPD against EffOPD on the embedded task, in minutes on a CPU")
    demo.add_argument("--out", type=Path, default=Path("runs/demo"), metavar="DIR", help="default: %(default)s")
    demo.add_argument("--seeds", type=_positive, default=1, metavar="N", help="seeds 0 to N-1; default: %(default)s")
    demo.add_argument("--learning-rate", type=float, nargs="+", default=None, metavar="X", help="one or more")
    demo.add_argument("--quick", action="store_true", help="a lower target: a smoke test in under a minute")
    demo.set_defaults(run=_demo)

    train = commands.add_parser(
        "train",
        help="distill a student from a teacher, from a YAML file",
        epilog="Every field of the file can be overridden: --field value. See docs/training.md for the fields.",
    )
    train.add_argument("config", metavar="CONFIG.yaml", help="a file, or the name of a recipe that ships with effopd")
    train.set_defaults(run=_train)

    world = commands.add_parser("world", help="the embedded world")
    actions = world.add_subparsers(dest="action", required=True, metavar="ACTION")
    build = actions.add_parser("build", help="pretrain a base and make its teacher, from nothing")
    build.add_argument("--out", type=Path, required=True, metavar="DIR")
    build.add_argument("--seed", type=int, default=0, metavar="N")
    build.set_defaults(run=_build_world)
    return parser


def _demo(options: argparse.Namespace, rest: list[str]) -> None:
    from effopd.demo import run_demo

    run_demo(options.out, seeds=options.seeds, learning_rates=options.learning_rate, quick=options.quick)


def _train(options: argparse.Namespace, rest: list[str]) -> None:
    from effopd.training.parse import parse_config
    from effopd.training.run import train

    train(*parse_config(options.config, rest))


def _build_world(options: argparse.Namespace, rest: list[str]) -> None:
    from effopd.world import build_world

    build_world(options.out, seed=options.seed)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not at least 1")
    return value


if __name__ == "__main__":
    sys.exit(main())
