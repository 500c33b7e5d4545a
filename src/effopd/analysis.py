"""`effopd analyze`: from a base and the checkpoints of some runs to tables, figures and one report.

`updates` measures and `report` draws, and neither imports the other. This module joins the two.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.progress import Progress, TaskID, TextColumn

from effopd.checkpoints import find_checkpoints
from effopd.console import print_places, progress_bar
from effopd.errors import DataError
from effopd.files import read_json
from effopd.models.find import model_directory
from effopd.report.analysis import write_report
from effopd.report.sweep import sweep_section
from effopd.updates.assemble import write_tables
from effopd.updates.jobs import measure_runs
from effopd.updates.tokens import tokens_of, write_embedding_tables

MAX_ROUNDING = 0.05
"""Share of an update's norm that rounding may have changed without a word about it."""


def analyze(
    base: str | Path,
    runs: Mapping[str, str | Path | Sequence[str | Path]],
    out: str | Path,
    *,
    ignore: Sequence[str] = (),
    text: str | Path | None = None,
    sweep: str | Path | None = None,
    workers: int = 1,
    device: str = "cpu",
    precision: Literal["float64", "float32"] = "float64",
    console: Console | None = None,
) -> Path:
    """Analyse what training did to the weights (arXiv 2605.11739), and write the report.

    Models are read matrix by matrix. A worker takes at most 1 GB of memory, whatever the size of the model. After an
    interruption, the same call continues the analysis.

    Args:
        base: Directory or hub name of the model that the runs started from.
        runs: Runs by name. Each is a directory of `checkpoint-N` folders, a model or LoRA adapter, or a list of those.
        out: Directory for the records, the figures and `report.html`.
        ignore: Regular expressions for names of parameters to leave out.
        text: File of texts whose tokens the embedding shift is measured for: plain text, or the completions of
            `effopd evaluate` (`examples.jsonl`) or of a sweep; None measures the whole vocabulary.
        sweep: Directory of a finished sweep of these runs (`effopd sweep`), for a section of the report.
        workers: Number of processes, which have one thread each.
        device: Device that computes, `cpu` or a CUDA device.
        precision: Precision of the computation. `float32` is faster, and its error is in the column `relative_error`.
        console: Console that shows progress; None shows it on stdout.

    Returns:
        The path of the report.

    Raises:
        CheckpointError: `out` holds another analysis.
        ConfigurationError: A setting cannot work.
        DataError: A model cannot be read or does not match the base, the text or the sweep cannot be used, or the sweep
            is of other models.
    """
    out = Path(out)
    wanted = None if text is None else tokens_of(Path(text), base)
    if sweep is not None:
        _check_same_models(Path(sweep), base, runs)  # errors before hours of measuring, not after them
        sweep_section(Path(sweep))
    console = console or Console(highlight=False)
    counted = TextColumn("{task.fields[done]:,}/{task.fields[of]:,} matrices")
    with progress_bar(columns=[counted], console=console) as progress:
        task = progress.add_task("measuring", total=None, done=0, of=0)
        records = measure_runs(
            base,
            runs,
            out,
            ignore=ignore,
            workers=workers,
            device=device,
            precision=precision,
            on_start=_starter(progress, task, console),
            on_job=lambda cost: progress.update(task, advance=cost, done=progress.tasks[0].fields["done"] + 1),
        )
        for run in _unmoved(records):
            note = f"Run {run}: all its weights are those of the base. Was the base given as the run?"
            console.print(note, markup=False, soft_wrap=True)
        for note in _rounded(records):
            console.print(note, markup=False, soft_wrap=True)
        progress.update(task, description="comparing")
        write_tables(records, out)
        write_embedding_tables(base, dict(runs), out, ignore=ignore, wanted=wanted)
        progress.update(task, description="drawing")
        write_report(out, None if sweep is None else Path(sweep))
        progress.update(task, description="done")
    report = out / "report.html"
    print_places(console, {"Report": report, "Tables": out / "tables.md", "Records": out / "updates.parquet"})
    return report


def _check_same_models(sweep: Path, base: str | Path, runs: Mapping[str, str | Path | Sequence[str | Path]]) -> None:
    """Check that a sweep is of these models, because its figures come into the report of their analysis.

    Its base has to be this one. At least one of the runs has to be in it, and none may have the name of a run of the
    sweep that has other checkpoints.

    Raises:
        DataError: It is not, or a model cannot be found.
    """
    if not (sweep / "sweep.json").exists():
        raise DataError(f"{sweep} is not a sweep: it has no sweep.json. Give the --out of `effopd sweep`.")
    identity = read_json(sweep / "sweep.json")
    remedy = "Give the sweep of these models, or leave --sweep out."
    if model_directory(identity["base"]).resolve() != model_directory(base).resolve():
        raise DataError(f"{sweep} is a sweep of the base {identity['base']}, and the analysis is of {base}. {remedy}")
    swept = {
        name: {(each["directory"], each["files"]) for seed in seeds for each in seed}
        for name, seeds in identity["runs"].items()
    }
    found = {
        name: {(str(each.directory.resolve()), each.identity()["files"]) for each in find_checkpoints(run)}
        for name, run in runs.items()
    }
    if other := [name for name in found if name in swept and not found[name] & swept[name]]:
        raise DataError(
            f"{sweep} is a sweep of another run {other[0]}: none of the checkpoints of this one is in it, or their"
            f" files have changed since. {remedy}"
        )
    if not any(mine & theirs for mine in found.values() for theirs in swept.values()):
        raise DataError(f"{sweep} is a sweep of {', '.join(swept)}, in which none of {', '.join(found)} is. {remedy}")


def _unmoved(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Find the runs none of whose weights differs from the base's."""
    moved = {record["run"] for record in records if record["frobenius_norm"] > 0}
    return list(dict.fromkeys(record["run"] for record in records if record["run"] not in moved))


def _rounded(records: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Tell of each run that is stored in too narrow a dtype for its update how much of it may be lost."""
    last = {record["run"]: record["checkpoint"] for record in records}
    for run, checkpoint in last.items():
        rows = [record for record in records if (record["run"], record["checkpoint"]) == (run, checkpoint)]
        norm = math.hypot(*(row["frobenius_norm"] for row in rows))
        bound = math.hypot(*(row.get("rounding_bound") or 0.0 for row in rows))
        if norm == 0 or bound <= MAX_ROUNDING * norm:
            continue
        sizes = [row["rows"] * row["cols"] for row in rows]
        changed = sum(row["changed_fraction"] * size for row, size in zip(rows, sizes, strict=True)) / sum(sizes)
        dtypes = ", ".join(sorted({row["dtype"] for row in rows if row.get("dtype")}))
        yield (
            f"Run {run}: {changed:.2%} of the entries of the last checkpoint differ from the base's. Rounding to "
            f"{dtypes} can have changed the update by up to {bound / norm:.0%} of its norm: what is measured, and any "
            "intervention on it, is about the update as stored. Save checkpoints in float32 to have all of it."
        )


def _starter(progress: Progress, task: TaskID, console: Console) -> Callable[[int, int, float], None]:
    def start(done: int, of: int, cost: float) -> None:
        if done:
            console.print(f"{done:,} of {of:,} matrices were measured before.")
        progress.update(task, total=cost, done=done, of=of)

    return start
