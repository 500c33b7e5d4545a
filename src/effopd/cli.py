"""The command line: parse, validate, call."""

import argparse
import contextlib
import errno
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from effopd import __version__
from effopd.errors import ConfigurationError, EffOPDError
from effopd.evaluate_command import add_evaluate
from effopd.interrupts import Terminated, sigterm_interrupts


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; the exit status is 0 on success, 1 on an error of ours, 2 on wrong usage, 130 or 143 if ended."""
    parser = _parser()
    options, rest = parser.parse_known_args(argv)
    if rest and options.command != "train":
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    lost = "Nothing was written" if options.command == "intervene" else ""
    try:
        # Trainers and their launchers have a way of their own with SIGTERM.
        with contextlib.nullcontext() if options.command == "train" else sigterm_interrupts():
            options.run(options, rest)
    except EffOPDError as error:
        print(f"effopd: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            remedy = lost or "What was finished is kept; once mended, the same command continues"
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

    analyze = commands.add_parser(
        "analyze",
        help="what training did to the weights, from a base and checkpoints",
        epilog="An interrupted analysis is continued by the same command. See docs/analysis.md.",
    )
    analyze.add_argument("--base", required=True, metavar="MODEL", help="directory or hub name")
    analyze.add_argument(
        "--run",
        dest="runs",
        required=True,
        action="append",
        type=_named_run,
        metavar="NAME=DIR[,DIR...]",
        help="a directory of checkpoint-N folders, a model or a LoRA adapter, or several; once per run",
    )
    analyze.add_argument("--out", type=Path, required=True, metavar="DIR")
    analyze.add_argument("--ignore", action="append", default=[], metavar="PATTERN", help="parameters to leave out")
    analyze.add_argument("--text", type=Path, metavar="FILE", help="tokens for the embedding shift; default: all")
    analyze.add_argument("--sweep", type=Path, metavar="DIR", help="a finished sweep, for a section of the report")
    analyze.add_argument("--workers", type=_positive, default=1, metavar="N", help="processes; default: %(default)s")
    analyze.add_argument("--device", default="cpu", help="cpu or cuda; default: %(default)s")
    analyze.add_argument(
        "--precision",
        choices=("float64", "float32"),
        default="float64",
        help="float32 is faster and states its error; default: %(default)s",
    )
    analyze.set_defaults(run=_analyze)

    world = commands.add_parser("world", help="the embedded world")
    actions = world.add_subparsers(dest="action", required=True, metavar="ACTION")
    build = actions.add_parser("build", help="pretrain a base and make its teacher, from nothing")
    build.add_argument("--out", type=Path, required=True, metavar="DIR")
    build.add_argument("--seed", type=int, default=0, metavar="N")
    build.set_defaults(run=_build_world)
    runs = actions.add_parser("runs", help="train OPD, EffOPD and GRPO from the base, keeping checkpoints")
    runs.add_argument("--out", type=Path, required=True, metavar="DIR")
    runs.add_argument("--seeds", type=_positive, default=3, metavar="N", help="seeds 0 to N-1; default: %(default)s")
    runs.set_defaults(run=_world_runs)

    _add_intervene(commands)
    _add_sweep(commands)
    add_evaluate(commands)
    _add_grade(commands)
    return parser


def _add_intervene(commands: Any) -> None:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--base", required=True, metavar="MODEL", help="directory or hub name")
    common.add_argument("--trained", required=True, metavar="MODEL", help="a model or LoRA adapter trained from it")
    common.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the new model goes")
    common.add_argument("--max-shard-gb", type=float, default=2.0, metavar="X", help="default: %(default)s")
    common.add_argument("--factors", metavar="DIR", help="an analysis of this pair, to use its singular vectors again")
    common.add_argument("--run", dest="run_name", metavar="NAME", help="run of that analysis, if there are several")
    common.add_argument("--checkpoint", type=int, metavar="I", help="checkpoint of that run, from 0; default: the last")

    intervene = commands.add_parser("intervene", help="a new model from a part of the update: what is that part worth?")
    kinds = intervene.add_subparsers(dest="kind", required=True, metavar="KIND")
    texts = {
        "scale": "base + alpha times the update",
        "replace-embeddings": "trained, with the base's embeddings",
        "window": "base, with the update of the MLP or attention modules of some layers",
        "top": "the first singular components of each attention and MLP update",
        "bottom": "the last singular components of each attention and MLP update",
        "norm-match": "an early checkpoint, each update scaled towards its final norm",
        "compose": "several of these one after the other",
    }
    parsers = {kind: kinds.add_parser(kind, help=text, parents=[common]) for kind, text in texts.items()}
    parsers["scale"].add_argument("--alpha", type=float, required=True, metavar="X", help="0: base, 1: trained")
    window = parsers["window"]
    window.add_argument("--module", required=True, metavar="M", help="mlp, attention or both")
    window.add_argument("--centre", type=int, required=True, metavar="LAYER", help="from 0")
    window.add_argument("--half-width", type=int, metavar="N", help="layers to either side; default: 8")
    window.add_argument("--other", metavar="WHICH", help="what all other tensors are: base (default) or trained")
    for kind in ("top", "bottom"):
        parsers[kind].add_argument("--percent", type=float, required=True, metavar="K", help="above 0, at most 100")
        parsers[kind].add_argument("--other", metavar="WHICH", help="all other tensors: trained (default) or base")
    parsers["top"].add_argument("--norm-like", metavar="MODEL", help="give each matrix the norm of this one's update")
    parsers["norm-match"].add_argument("--final", required=True, metavar="MODEL", help="the run's final model")
    parsers["norm-match"].add_argument("--beta", type=float, metavar="X", help="default: 1, the final norm")
    parsers["compose"].add_argument("plan", metavar="PLAN.yaml", help="a list such as `- scale: {alpha: 0.5}`")
    intervene.set_defaults(run=_intervene)


def _add_sweep(commands: Any) -> None:
    sweep = commands.add_parser(
        "sweep",
        help="runs x interventions x values x tasks x seeds, with figures",
        epilog="An interrupted sweep is continued by the same command. See docs/sweeps.md.",
    )
    sweep.add_argument(
        "spec", metavar="SPEC.yaml", help="a file, or the name of a specification that ships with effopd"
    )
    sweep.add_argument("--out", type=Path, required=True, metavar="DIR", help="where results and figures go")
    sweep.add_argument("--root", metavar="DIR", help="where the runs' relative paths start; default: the file's `root`")
    sweep.add_argument("--quick", action="store_true", help="fewer problems, checkpoints, values and sampling seeds")
    sweep.add_argument("--workers", type=_positive, metavar="N", help="default: one per processor or share of a GPU")
    sweep.add_argument("--gpus-per-worker", type=float, default=0.0, metavar="G", help="0.5: two share one; default: 0")
    sweep.add_argument("--address", metavar="ADDR", help="of a Ray cluster; default: Ray is started on this machine")
    sweep.set_defaults(run=_sweep)


def _add_grade(commands: Any) -> None:
    grade = commands.add_parser(
        "grade",
        help="saved completions against their answers or tests",
        epilog="An interrupted grading is continued by the same command. See docs/evaluation.md.",
    )
    grade.add_argument("file", type=Path, metavar="FILE.jsonl", help="lines with completion, and answer or tests")
    grade.add_argument("--grader", choices=("math", "code"), required=True)
    grade.add_argument("--out", type=Path, required=True, metavar="OUT.jsonl", help="the lines with their verdicts")
    grade.add_argument("--workers", type=_positive, metavar="N", help="at a time; default: one per processor")
    grade.add_argument("--time-limit", type=float, metavar="S", help="code: seconds per run; default: 6")
    grade.add_argument("--memory-limit", type=_positive, metavar="MB", help="code: default: 1024")
    grade.add_argument("--unsafe", action="store_true", help="code: without a sandbox, with all your rights")
    grade.set_defaults(run=_grade)


def _demo(options: argparse.Namespace, rest: list[str]) -> None:
    from effopd.demo import run_demo

    run_demo(options.out, seeds=options.seeds, learning_rates=options.learning_rate, quick=options.quick)


def _train(options: argparse.Namespace, rest: list[str]) -> None:
    from effopd.training.parse import parse_config
    from effopd.training.run import train

    train(*parse_config(options.config, rest))


def _analyze(options: argparse.Namespace, rest: list[str]) -> None:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch loads: the workers are the parallelism
    from effopd.analysis import analyze

    names = [name for name, _ in options.runs]
    if len(set(names)) < len(names):
        raise ConfigurationError(f"Got the run names {', '.join(names)}; expected each once. Join paths with commas.")
    analyze(
        options.base,
        dict(options.runs),
        options.out,
        ignore=options.ignore,
        text=options.text,
        sweep=options.sweep,
        workers=options.workers,
        device=options.device,
        precision=options.precision,
    )


def _build_world(options: argparse.Namespace, rest: list[str]) -> None:
    from effopd.world import build_world

    build_world(options.out, seed=options.seed)


def _world_runs(options: argparse.Namespace, rest: list[str]) -> None:
    from effopd.world_runs import world_runs

    world_runs(options.out, seeds=options.seeds)


def _named_run(text: str) -> tuple[str, str | list[str]]:
    name, equals, paths = text.partition("=")
    directories = paths.split(",")
    if not equals or not name or not all(directories):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=DIR or NAME=DIR,DIR,...")
    return name, directories[0] if len(directories) == 1 else directories


def _intervene(options: argparse.Namespace, rest: list[str]) -> None:
    from rich.console import Console
    from rich.progress import Progress

    from effopd.interventions import KINDS, intervene, make_intervention, open_factors, read_plan

    if options.kind == "compose":
        interventions = read_plan(options.plan)
    else:
        names = KINDS[options.kind].__dataclass_fields__
        given = {name: value for name in names if (value := getattr(options, name)) is not None}
        interventions = [make_intervention(options.kind, given)]
    if not options.factors and (options.run_name or options.checkpoint is not None):
        raise ConfigurationError("--run and --checkpoint choose among the factors of an analysis: give --factors too.")
    if not 0 < options.max_shard_gb < math.inf:
        raise ConfigurationError(f"--max-shard-gb: got {options.max_shard_gb}; expected a number above 0.")
    factors = open_factors(options.factors, options.run_name, options.checkpoint) if options.factors else None
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=None)
        record = intervene(
            options.base,
            options.trained,
            interventions,
            options.out,
            factors=factors,
            max_shard_bytes=int(options.max_shard_gb * 1e9),
            progress=lambda name, total: progress.update(task, description=name, total=total, advance=1),
        )
    print(f"{options.out}: norm of the update {record['update_norm']['total']:.6g}")


def _sweep(options: argparse.Namespace, rest: list[str]) -> None:
    from dataclasses import replace

    from effopd.sweeps import read_spec, sweep

    spec = read_spec(options.spec)
    if options.root:
        spec = replace(spec, root=options.root)
    result = sweep(
        spec.quick() if options.quick else spec,
        options.out,
        workers=options.workers,
        address=options.address,
        gpus_per_worker=options.gpus_per_worker,
    )
    print(f"{result.directory}: {result.num_cells} cells, {len(result.written)} figures and tables")
    if result.failed:
        raise EffOPDError(
            f"{len(result.failed)} of {result.num_cells} cells failed, and are not in the figures; the first: "
            f"{result.failed[0]}. All of them: {result.directory / 'failed.jsonl'}. The same command tries them again."
        )


def _grade(options: argparse.Namespace, rest: list[str]) -> None:
    from effopd.grading.saved_completions import grade_file

    summary = grade_file(
        options.file,
        options.grader,
        options.out,
        workers=options.workers,
        time_s=options.time_limit,
        memory_mb=options.memory_limit,
        unsafe=options.unsafe,
    )
    print(f"{options.out}: {summary}")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1, or no whole number")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
