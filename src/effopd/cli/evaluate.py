"""`effopd evaluate`: how well a model does on a task."""

import argparse
import shlex
import sys
from pathlib import Path

from effopd.cli.options import Commands, json_object, keywords


def add(commands: Commands) -> None:
    """Add the command and its options."""
    parser = commands.add_parser(
        "evaluate",
        help="evaluate a model on a task: avg@n, pass@n, lengths, KL to a teacher",
        epilog="After an interruption, the same command continues the evaluation. See docs/evaluation.md.",
    )
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="model to evaluate: a directory, a hub name, world:base, world:facts/base and the like",
    )
    parser.add_argument(
        "--task",
        required=True,
        metavar="T",
        help="task: world, a file, math500, ..., lm-eval:NAME; see docs/evaluation.md",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the records and the summary go")
    parser.add_argument(
        "--samples",
        dest="num_samples",
        type=int,
        default=1,
        metavar="N",
        help="completions per problem; default: %(default)s",
    )
    parser.add_argument(
        "--backend",
        choices=("hf", "vllm"),
        default="hf",
        help="sample with transformers (hf) or vLLM; default: %(default)s",
    )
    parser.add_argument("--limit", type=int, metavar="N", help="take only the first N problems")
    parser.add_argument("--teacher", metavar="MODEL", help="model to measure the reverse KL to (backend hf)")
    parser.add_argument("--chat", action="store_true", help="put text prompts into the model's chat template")
    parser.add_argument(
        "--system-prompt", metavar="TEXT", help="system message that comes before each problem; only with --chat"
    )
    parser.add_argument(
        "--chat-template-kwargs",
        type=json_object,
        metavar="JSON",
        help="what the chat template is given besides the messages, such as '{\"enable_thinking\": false}'",
    )
    parser.add_argument(
        "--data", type=Path, metavar="FILE", help="file with a benchmark's rows, in the benchmark's own format"
    )
    _add_sampling_options(parser)
    _add_loading_options(parser)
    parser.set_defaults(call=_evaluate)


def _add_sampling_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="random seed for sampling; default: %(default)s"
    )
    parser.add_argument(
        "--temperature",
        type=float,
        default=1.0,
        metavar="X",
        help="sampling temperature, 0 for greedy; default: %(default)s",
    )
    parser.add_argument(
        "--max-new-tokens", type=int, metavar="N", help="limit on the length of a completion; default: the task's"
    )
    parser.add_argument(
        "--batch-size", type=int, default=256, metavar="N", help="completions to sample at a time; default: %(default)s"
    )


def _add_loading_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dtype", default="auto", help="dtype of the weights: float32, bfloat16, float16 or auto; default: %(default)s"
    )
    parser.add_argument(
        "--device", metavar="D", help="device for backend hf: cpu or cuda; default: cuda if there is one"
    )
    parser.add_argument("--pad-token", metavar="TOKEN", help="padding token, for tokenizers that name none")


def _evaluate(options: argparse.Namespace) -> None:
    from effopd.evaluation.evaluate_model import evaluate_model

    evaluate_model(**keywords(options), command=shlex.join(sys.argv))
