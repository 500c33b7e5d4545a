"""The options of the command `effopd evaluate`."""

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any


def add_evaluate(commands: Any) -> None:
    """Add the command to those of the parser."""
    evaluate = commands.add_parser(
        "evaluate",
        help="a model on a task: avg@n, pass@n, lengths, KL to a teacher",
        epilog="An interrupted evaluation is continued by the same command. See docs/evaluation.md.",
    )
    evaluate.add_argument("model", metavar="MODEL", help="directory, hub name, world:base or world:teacher")
    evaluate.add_argument(
        "--task", required=True, metavar="T", help="world, a file, math500, ..., lm-eval:NAME; see docs/evaluation.md"
    )
    evaluate.add_argument("--out", type=Path, required=True, metavar="DIR", help="where records and summary go")
    evaluate.add_argument(
        "--samples", type=int, default=1, metavar="N", help="completions for each problem; default: %(default)s"
    )
    evaluate.add_argument(
        "--backend", choices=("hf", "vllm"), default="hf", help="what generates; default: %(default)s"
    )
    evaluate.add_argument("--limit", type=int, metavar="N", help="take only the first N problems")
    evaluate.add_argument("--teacher", metavar="MODEL", help="measure the reverse KL to this model (backend hf)")
    evaluate.add_argument("--chat", action="store_true", help="put text prompts into the model's chat template")
    evaluate.add_argument(
        "--data", type=Path, metavar="FILE", help="file with the rows of a benchmark, in its own columns"
    )
    evaluate.add_argument(
        "--seed", type=int, default=0, metavar="N", help="random seed for sampling; default: %(default)s"
    )
    evaluate.add_argument(
        "--temperature",
        type=float,
        default=1.0,
        metavar="X",
        help="sampling temperature; default: %(default)s; 0: greedy",
    )
    evaluate.add_argument(
        "--max-new-tokens", type=int, metavar="N", help="limit on the tokens of a completion; default: that of the task"
    )
    evaluate.add_argument(
        "--batch-size",
        type=int,
        default=256,
        metavar="N",
        help="completions that are generated at a time; default: %(default)s",
    )
    evaluate.add_argument(
        "--dtype", default="auto", help="type of the weights: float32, bfloat16, float16 or auto; default: %(default)s"
    )
    evaluate.add_argument("--device", metavar="D", help="cpu or cuda, for backend hf; default: cuda if there is one")
    evaluate.add_argument("--pad-token", metavar="TOKEN", help="padding token, for a tokenizer that names none")
    evaluate.set_defaults(run=_evaluate)


def _evaluate(options: argparse.Namespace, rest: list[str]) -> None:
    from effopd.evaluation.evaluate_model import evaluate_model

    evaluate_model(
        options.model,
        options.task,
        options.out,
        num_samples=options.samples,
        backend=options.backend,
        limit=options.limit,
        seed=options.seed,
        batch_size=options.batch_size,
        temperature=options.temperature,
        max_new_tokens=options.max_new_tokens,
        teacher=options.teacher,
        chat=options.chat,
        data=options.data,
        dtype=options.dtype,
        device=options.device,
        pad_token=options.pad_token,
        command=shlex.join(sys.argv),
    )
