"""`effopd show`: what several models wrote on the same problems, side by side."""

import argparse

from effopd.cli.options import Commands, keywords, positive


def add(commands: Commands) -> None:
    """Add the command and its options."""
    parser = commands.add_parser(
        "show",
        help="show completions of the same problems by several models side by side, as an HTML page",
        epilog="A sweep gives base, early checkpoint, early checkpoint with the final norm, and final model of each"
        " method; an evaluation gives one model. See docs/evaluation.md.",
    )
    parser.add_argument(
        "directories",
        nargs="+",
        type=_named_directory,
        metavar="[NAME=]DIR",
        help="directory of a sweep or an evaluation, perhaps with a name for the page",
    )
    parser.add_argument(
        "--out", metavar="FILE", help="file to write, or - to print it; default: completions.html in the first DIR"
    )
    parser.add_argument(
        "--limit",
        type=positive,
        default=20,
        metavar="N",
        help="number of problems, those first that not all models solve alike; default: %(default)s",
    )
    parser.add_argument(
        "--problem",
        dest="problems",
        type=int,
        action="append",
        default=[],
        metavar="I",
        help="index of a problem to show, from 0, in place of those; may be given several times",
    )
    parser.add_argument("--task", metavar="NAME", help="task of a sweep; default: its first one")
    parser.add_argument(
        "--curve", metavar="KIND", help="show the models of this curve of a sweep, such as top, in place of those"
    )
    parser.set_defaults(call=_show)


def _show(options: argparse.Namespace) -> None:
    from effopd.report.completions import write_page

    if (path := write_page(**keywords(options))) is not None:
        print(f"Page: {path}")


def _named_directory(text: str) -> tuple[str | None, str]:
    name, equals, directory = text.partition("=")
    if not equals or "/" in name:  # a path may have an equals sign in it
        return None, text
    if not name or not directory:
        raise argparse.ArgumentTypeError(f"{text!r} is neither DIR nor NAME=DIR")
    return name, directory
