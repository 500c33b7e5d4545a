"""`effopd grade`: which of the completions in a file are right."""

import argparse
from pathlib import Path

from effopd.cli.options import Commands, keywords, positive


def add(commands: Commands) -> None:
    """Add the command and its options."""
    parser = commands.add_parser(
        "grade",
        help="saved completions against their answers or tests",
        epilog="An interrupted grading is continued by the same command. See docs/evaluation.md.",
    )
    parser.add_argument("path", metavar="FILE.jsonl", type=Path, help="lines with completion, and answer or tests")
    parser.add_argument("--grader", choices=("math", "code"), required=True)
    parser.add_argument("--out", type=Path, required=True, metavar="OUT.jsonl", help="the lines with their verdicts")
    parser.add_argument("--workers", type=positive, metavar="N", help="at a time; default: one per processor")
    parser.add_argument(
        "--time-limit", dest="time_s", type=float, metavar="S", help="code: seconds per run; default: 6"
    )
    parser.add_argument("--memory-limit", dest="memory_mb", type=positive, metavar="MB", help="code: default: 1024")
    parser.add_argument("--unsafe", action="store_true", help="code: without a sandbox, with all your rights")
    parser.set_defaults(call=_grade)


def _grade(options: argparse.Namespace) -> None:
    from effopd.evaluation.grade import grade_file

    print(f"{options.out}: {grade_file(**keywords(options))}")
