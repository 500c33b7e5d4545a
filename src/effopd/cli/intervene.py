"""`effopd intervene`: a new model from a part of what training did to the weights."""

import argparse
from pathlib import Path

from effopd.checks import check_number
from effopd.cli.options import Commands, add_field_options, field_values
from effopd.errors import ConfigurationError


def add(commands: Commands) -> None:
    """Add the command. Its options follow when it is used: they come from the interventions, which load torch."""
    parser = commands.add_parser(
        "intervene", help="make a new model from a part of the update, to see what that part is worth"
    )
    parser.fill = _add_kinds
    parser.set_defaults(call=_intervene)


def _add_kinds(parser: argparse.ArgumentParser) -> None:
    from effopd.interventions.registry import KINDS, SUMMARIES

    common = _common_options()
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")
    for kind, intervention in KINDS.items():
        add_field_options(kinds.add_parser(kind, help=SUMMARIES[kind], parents=[common]), intervention)
    compose = kinds.add_parser("compose", help="several of these, one after the other", parents=[common])
    compose.add_argument("plan", metavar="PLAN.yaml", help="YAML file with a list such as `- scale: {alpha: 0.5}`")


def _common_options() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--base", required=True, metavar="MODEL", help="base: a directory or hub name")
    common.add_argument("--trained", required=True, metavar="MODEL", help="model or LoRA adapter trained from the base")
    common.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the new model goes")
    common.add_argument(
        "--max-shard-gb",
        type=float,
        default=2.0,
        metavar="X",
        help="gigabytes above which a new file of weights is begun; default: %(default)s",
    )
    common.add_argument(
        "--dtype",
        choices=("float32", "stored"),
        help="dtype of the new model; default: the trained one's, or float32 where that loses more than 1 %% of "
        "the update's norm",
    )
    common.add_argument(
        "--factors", metavar="DIR", help="analysis of these two models, to use its singular vectors again"
    )
    common.add_argument("--run", dest="run_name", metavar="NAME", help="run of that analysis, if it has several")
    common.add_argument("--checkpoint", type=int, metavar="I", help="checkpoint of that run, from 0; default: the last")
    return common


def _intervene(options: argparse.Namespace) -> None:
    from effopd.console import progress_bar
    from effopd.interventions import KINDS, intervene, make_intervention, open_factors, read_plan, summary

    if options.kind == "compose":
        interventions = read_plan(options.plan)
    else:
        interventions = [make_intervention(options.kind, field_values(options, KINDS[options.kind]))]
    if not options.factors and (options.run_name or options.checkpoint is not None):
        raise ConfigurationError(
            "--run and --checkpoint choose among the factors of an analysis: give --factors too, or neither of them."
        )
    check_number("--max-shard-gb", options.max_shard_gb, above=0)
    factors = open_factors(options.factors, options.run_name, options.checkpoint) if options.factors else None
    with progress_bar("tensors", transient=True) as progress:
        task = progress.add_task("", total=None)
        record = intervene(
            options.base,
            options.trained,
            interventions,
            options.out,
            dtype=options.dtype,
            factors=factors,
            max_shard_bytes=int(options.max_shard_gb * 1e9),
            progress=lambda name, total: progress.update(task, description=name, total=total, advance=1),
        )
    print(f"{options.out}: {summary(record)}")
