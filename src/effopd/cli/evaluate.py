"""`effopd evaluate`: how well a model does on a task."""

import argparse
import shlex
import sys
from pathlib import Path

from effopd.cli.options import Commands, keywords


def add(commands: Commands) -> None:
    """Add the command and its options."""
    parser = commands.add_parser(
        "evaluate",
        help="a model on a task: avg@n, pass@n, lengths, KL to a teacher",
        epilog="An interrupted evaluation is continued by the same command. See docs/evaluation.md.",
    )
    parser.add_argument("model", metavar="MODEL", help="directory, hub name, world:base or world:teacher")
    parser.add_argument(
        "--task", required=True, metavar="T", help="world, a file, math500, ..., lm-eval:NAME; see docs/evaluation.md"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where records and summary go")
    parser.add_argument(
        "--samples", dest="num_samples", type=int, default=1, metavar="N", help="per problem; default: %(default)s"
    )
    parser.add_argument("--backend", choices=("hf", "vllm"), default="hf", help="default: %(default)s")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first problems")
    parser.add_argument("--teacher", metavar="MODEL", help="measure the reverse KL to it (backend hf)")
    parser.add_argument("--chat", action="store_true", help="put text prompts into the model's chat template")
    parser.add_argument("--data", type=Path, metavar="FILE", help="a benchmark's rows, in its format, from a file")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the sampling; default: %(default)s")
    parser.add_argument("--temperature", type=float, default=1.0, metavar="X", help="default: %(default)s; 0: greedy")
    parser.add_argument("--max-new-tokens", type=int, metavar="N", help="default: the task's")
    parser.add_argument(
        "--batch-size", type=int, default=256, metavar="N", help="completions at a time; default: %(default)s"
    )
    parser.add_argument("--dtype", default="auto", help="float32, bfloat16, float16 or auto; default: %(default)s")
    parser.add_argument("--device", metavar="D", help="backend hf: cpu or cuda; default: cuda if there is one")
    parser.add_argument("--pad-token", metavar="TOKEN", help="for tokenizers that name none")
    parser.set_defaults(call=_evaluate)


def _evaluate(options: argparse.Namespace) -> None:
    from effopd.evaluate_model import evaluate_model

    evaluate_model(**keywords(options), command=shlex.join(sys.argv))
