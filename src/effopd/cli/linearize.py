"""`effopd linearize`: the local quadratic view of a student and its teacher, before training."""

import argparse
from pathlib import Path

from effopd.cli.options import Commands, by_name, json_object, keywords, named_places, positive
from effopd.errors import ConfigurationError


def add(commands: Commands) -> None:
    """Add the command and its options."""
    parser = commands.add_parser(
        "linearize",
        help="measure where the first steps of distillation lead: the gradient in the eigenvectors of the curvature",
        epilog="After an interruption, the same command continues. See docs/linearized.md.",
    )
    parser.add_argument(
        "--student", required=True, metavar="MODEL", help="student before training: directory or hub name"
    )
    parser.add_argument("--teacher", required=True, metavar="MODEL", help="its teacher, with the same tokenizer")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--task", metavar="TASK", help="task whose prompts are taken, as for `effopd evaluate`")
    source.add_argument("--prompts", type=Path, metavar="FILE", help="file of prompts, whose rows need no answers")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where numbers, figures and report go")
    parser.add_argument(
        "--checkpoint",
        dest="checkpoints",
        action="append",
        default=[],
        type=named_places,
        metavar="NAME=DIR",
        help="model trained from the student, to hold against the prediction; may be given several times",
    )
    parser.add_argument(
        "--standard-error",
        type=float,
        default=0.1,
        metavar="X",
        help="relative standard error of the mean gradient, by which contexts are chosen; default: %(default)s",
    )
    parser.add_argument(
        "--max-contexts", type=positive, default=256, metavar="N", help="most contexts to sample; default: %(default)s"
    )
    parser.add_argument(
        "--max-fresh-contexts",
        type=int,
        default=256,
        metavar="N",
        help="most contexts besides, for shares of b without noise, at least 3, or 0 for none; default: %(default)s",
    )
    parser.add_argument(
        "--num-steps", type=positive, default=60, metavar="N", help="products with the curvature; default: %(default)s"
    )
    parser.add_argument(
        "--micro-batch", type=positive, default=8, metavar="N", help="contexts at a time; default: %(default)s"
    )
    parser.add_argument("--max-new-tokens", type=positive, metavar="N", help="longest completion; default: the task's")
    parser.add_argument("--temperature", type=float, default=1.0, metavar="X", help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="random seed; default: %(default)s")
    parser.add_argument("--chat", action="store_true", help="put text prompts into the model's chat template")
    parser.add_argument("--system-prompt", metavar="TEXT", help="system message before each prompt; only with --chat")
    parser.add_argument(
        "--chat-template-kwargs", type=json_object, metavar="JSON", help="what the chat template is given besides"
    )
    parser.add_argument("--device", metavar="D", help="cpu or cuda; default: cuda if there is one")
    parser.add_argument("--pad-token", metavar="TOKEN", help="padding token, for tokenizers that name none")
    parser.set_defaults(call=_linearize)


def _linearize(options: argparse.Namespace) -> None:
    from effopd.linearize import linearize

    checkpoints = by_name(options.checkpoints, "checkpoint")
    for name, place in checkpoints.items():
        if not isinstance(place, str):
            raise ConfigurationError(f"--checkpoint {name}: got {len(place)} directories, expected one model.")
    linearize(**keywords(options) | {"checkpoints": checkpoints})
