"""`effopd grade`: which of the completions in a file are right."""

import argparse
from pathlib import Path

from effopd.cli.options import Commands, keywords, positive


def add(commands: Commands) -> None:
    """Add the command and its options."""
    parser = commands.add_parser(
        "grade",
        help="grade saved completions by their answers or tests",
        epilog="After an interruption, the same command continues the grading. See docs/evaluation.md.",
    )
    parser.add_argument(
        "path", metavar="FILE.jsonl", type=Path, help="file whose lines have a completion, and an answer or tests"
    )
    parser.add_argument(
        "--grader", choices=("math", "code"), required=True, help="math: compare answers; code: run tests"
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="OUT.jsonl", help="file for the same lines with their verdicts"
    )
    parser.add_argument(
        "--workers", type=positive, metavar="N", help="lines to grade at a time; default: one per processor"
    )
    parser.add_argument(
        "--time-limit", dest="time_s", type=float, metavar="S", help="code: processor seconds for a run; default: 6"
    )
    parser.add_argument(
        "--memory-limit",
        dest="memory_mb",
        type=positive,
        metavar="MB",
        help="code: MiB of memory for a run; default: 1024",
    )
    parser.add_argument(
        "--unsafe", action="store_true", help="code: run programs without a sandbox, with all your rights"
    )
    parser.set_defaults(call=_grade)


def _grade(options: argparse.Namespace) -> None:
    from effopd.grading.saved_completions import grade_file

    print(f"{options.out}: {grade_file(**keywords(options))}")
