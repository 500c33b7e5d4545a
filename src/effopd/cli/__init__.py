"""The command line: it parses the arguments, calls the command, and turns errors into messages and exit statuses.

Each command has a file here, with its options and the call of the library. Those files import the library only when
their command runs, so that `effopd --help` need not wait for torch.
"""

import argparse
import contextlib
import errno
import os
import sys
from collections.abc import Sequence

from safetensors import SafetensorError

from effopd import __version__
from effopd.cli import analyze, curves, demo, evaluate, grade, intervene, linearize, show, study, sweep, train, world
from effopd.cli.interrupts import Terminated, sigterm_interrupts
from effopd.cli.options import CommandParser
from effopd.errors import EffOPDError
from effopd.extras import needed_by

_COMMANDS = (demo, train, analyze, linearize, world, intervene, sweep, evaluate, curves, grade, show, study)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: The arguments after the program's name; those of the process by default.

    Returns:
        The exit status: 0 on success, 1 on an error that effopd raised, 130 if Ctrl-C ended the command, 143 if SIGTERM
        did.

    Raises:
        SystemExit: The usage is wrong (status 2), or help or the version were asked for (status 0).
    """
    lost = "Nothing was written"
    try:
        with sigterm_interrupts():
            options = _parse(argv)
        if options.command != "intervene":
            lost = ""
        # Trainers and their launchers handle SIGTERM in their own way.
        signals = contextlib.nullcontext() if options.command == "train" else sigterm_interrupts()
        with signals, needed_by(f"effopd {options.command}"):
            options.call(options)
    except EffOPDError as error:
        print(f"effopd: {error}", file=sys.stderr)
        return 1
    except SafetensorError as error:  # which is how it tells of a full disk, with no number
        if (full := os.strerror(errno.ENOSPC)) not in str(error):
            raise
        print(
            f"effopd: {full}. What was finished is kept. Once this is mended, the same command continues.",
            file=sys.stderr,
        )
        return 1
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            remedy = lost or "What was finished is kept. Once this is mended, the same command continues"
        elif error.filename is not None:
            remedy = "Give another path, or mend this one"
        else:
            raise
        print(f"effopd: {error}. {remedy}.", file=sys.stderr)
        return 1
    except KeyboardInterrupt as interruption:
        again = lost or "The same command continues where this one stopped"
        print(f"\neffopd: interrupted. {again}.", file=sys.stderr)
        return 143 if isinstance(interruption, Terminated) else 130
    return 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="effopd", description="Efficient on-policy distillation (arXiv 2605.11739).")
    parser.add_argument("--version", action="version", version=f"effopd {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=CommandParser)
    for command in _COMMANDS:
        command.add(commands)
    options, rest = parser.parse_known_args(argv)
    if options.command == "train":
        options.overrides = rest
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return options
