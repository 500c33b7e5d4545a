"""An evaluation in a directory, which continues where it was interrupted.

settings.json      what is evaluated and how: the same command finds its own directory again by it
examples.jsonl     a line per completion, appended batch by batch
summary.json       what came out, once all of them are there
"""

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from effopd.errors import CheckpointError, DataError
from effopd.evaluation.backends import Backend
from effopd.evaluation.run import Evaluation, ExampleRecord, Item, Plan, powers_of_two
from effopd.evaluation.tasks import Task
from effopd.files import (
    append_json_line,
    finite_or_none,
    locked,
    read_json,
    read_json_lines,
    write_json,
    write_json_lines,
)

SETTINGS, EXAMPLES, SUMMARY = "settings.json", "examples.jsonl", "summary.json"

Load = Callable[[], tuple[Backend, PreTrainedModel | None]]


def evaluate_in(
    out: Path,
    plan: Plan,
    settings: Mapping[str, Any],
    load: Load,
    *,
    on_batch: Callable[[int, int], None] | None = None,
) -> tuple[Evaluation, dict[str, Any]]:
    """Evaluate, keeping what is done.

    An interruption costs at most the batch under way; a batch is done again as a whole, with its own seed, so that the
    result is the same to the bit as without the interruption.

    Args:
        out: A directory: new, empty, or of the same evaluation.
        plan: What to sample.
        settings: All that decides the result, as JSON has it; written to `settings.json`.
        load: Loads the backend and the teacher, if there is one; called only where something is left to do.
        on_batch: Called with the completions that are done and all there are, before the first batch and after each.

    Returns:
        The evaluation, and how it went: `num_resumed`, the completions that were there before, and `seconds` that this
        call took.

    Raises:
        CheckpointError: `out` holds something else.
        DataError: Its records cannot be read, or another evaluation is writing there.
    """
    started = time.monotonic()
    if out.exists() and not out.is_dir():
        raise CheckpointError(f"{out} is a file. Choose another --out.")
    with locked(out):
        _claim(out, json.loads(json.dumps(settings)))
        evaluation, num_resumed = _evaluate(out, plan, load, on_batch or (lambda done, of: None))
    return evaluation, {"num_resumed": num_resumed, "seconds": round(time.monotonic() - started, 3)}


def _evaluate(out: Path, plan: Plan, load: Load, report: Callable[[int, int], None]) -> tuple[Evaluation, int]:
    records = _finished(out / EXAMPLES, plan)
    num_resumed, total = len(records), sum(map(len, plan.batches))
    report(num_resumed, total)
    left = [index for index, batch in enumerate(plan.batches) if batch[0] not in records]
    if left:
        backend, teacher = load()
        for index in left:
            for record in plan.run(index, backend, teacher):
                records[record.prompt, record.sample] = record
                append_json_line(out / EXAMPLES, asdict(record))
            report(len(records), total)
    return Evaluation([records[item] for item in sorted(records)]), num_resumed


def summarize(evaluation: Evaluation) -> dict[str, Any]:
    """The averages of an evaluation as JSON has them: None stands for what a single problem does not tell.

    Keys: `num_problems`, `num_samples`, `mean` (avg@n) with `standard_error` and `interval`, `pass_at` by k (powers of
    two up to n) with the same three, `num_tokens`, `truncation_rate`, and with a teacher `kl_per_token` and
    `kl_per_sequence`, in nats, with `..._standard_error`.
    """
    pass_at = {}
    for k in powers_of_two(evaluation.num_samples):
        estimate = evaluation.pass_at_estimate(k)
        pass_at[str(k)] = {
            "value": estimate.value,
            "standard_error": finite_or_none(estimate.standard_error),
            "interval": list(estimate.interval),
        }
    summary: dict[str, Any] = {
        "num_problems": len(evaluation.records) // evaluation.num_samples,
        "num_samples": evaluation.num_samples,
        "mean": evaluation.mean,
        "standard_error": finite_or_none(evaluation.standard_error),
        "interval": list(evaluation.interval),
        "pass_at": pass_at,
        "num_tokens": evaluation.num_tokens,
        "truncation_rate": evaluation.truncation_rate,
    }
    if evaluation.kl_per_token is not None:
        for name in ("kl_per_token", "kl_per_sequence"):
            summary[name] = getattr(evaluation, name)
            summary[f"{name}_standard_error"] = finite_or_none(getattr(evaluation, f"{name}_standard_error"))
    return summary


def task_digest(task: Task) -> str:
    """Tells tasks of one name apart whose prompts or answers differ."""
    contents = json.dumps([task.prompts, task.answers], sort_keys=True, default=str)
    return hashlib.sha256(contents.encode()).hexdigest()[:16]


def _claim(out: Path, settings: Mapping[str, Any]) -> None:
    """Write the settings into a directory without records, or find the same ones there."""
    path = out / SETTINGS
    if (out / EXAMPLES).exists() and path.exists():
        before = read_json(path)
        differing = [name for name in {**before, **settings} if before.get(name) != settings.get(name)]
        if differing:
            changes = ", ".join(f"{name} {before.get(name)!r} (now {settings.get(name)!r})" for name in differing)
            raise CheckpointError(
                f"{out} holds an evaluation with other settings: {changes}. Choose another --out, or remove that one."
            )
        return
    if any(file != path for file in out.iterdir()):
        raise CheckpointError(f"{out} is not empty and holds no evaluation. Choose another --out, or an empty one.")
    write_json(path, settings)


def _finished(path: Path, plan: Plan) -> dict[Item, ExampleRecord]:
    """Records of batches that were finished; the file is cut to them."""
    if not path.exists():
        return {}
    rows = read_json_lines(path)
    try:
        records = {(record.prompt, record.sample): record for record in (ExampleRecord(**row) for row in rows)}
    except TypeError as error:
        raise DataError(f"{path}: not the records of an evaluation ({error}). Remove its directory.") from error
    whole = [item for batch in plan.batches if all(item in records for item in batch) for item in batch]
    kept = {item: records[item] for item in whole}
    if len(kept) < len(rows) or not path.read_bytes().endswith(b"\n"):
        write_json_lines(path, [asdict(record) for record in kept.values()])
    return kept
