"""An evaluation that is kept in a directory, and that resumes where it was interrupted.

settings.json      what is evaluated and how, by which the same command recognizes its directory
problems.jsonl     a line for each problem: its prompt, and its answer if that is a text
examples.jsonl     a line for each completion, appended batch by batch
summary.json       the averages, once all completions are there
"""

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from decimal import Decimal
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from effopd.errors import DataError
from effopd.evaluation.backends import Backend
from effopd.evaluation.results import Evaluation, ExampleRecord
from effopd.evaluation.sample_batches import Item, SampleBatches
from effopd.evaluation.task import Task
from effopd.files import write_json_lines
from effopd.run_directory import FinishedPieces, Settings, claimed, differing_settings

SETTINGS, PROBLEMS, EXAMPLES, SUMMARY = "settings.json", "problems.jsonl", "examples.jsonl", "summary.json"

Load = Callable[[], tuple[Backend, PreTrainedModel | None]]


def evaluate_in(
    out: Path,
    batches: SampleBatches,
    settings: Mapping[str, Any],
    load: Load,
    *,
    on_batch: Callable[[int, int], None] | None = None,
) -> tuple[Evaluation, dict[str, Any]]:
    """Do an evaluation in a directory, or resume the one that is there.

    An interruption costs at most the batch under way. A batch is done again as a whole, with its own seed, so that the
    result is the same to the bit as without the interruption.

    Args:
        out: Directory that is new, empty, or of the same evaluation.
        batches: Batches to sample.
        settings: Everything that decides the result, as JSON can hold it. It is written to `settings.json`.
        load: Function that loads the backend, and the teacher or None. It is called only if something is left to do.
        on_batch: Function that is called with the number of completions that are done and with the number of all,
            before the first batch and after each.

    Returns:
        The evaluation, and a mapping of how it went: `num_resumed`, the number of completions that were there before,
        and `seconds`, those that this call took.

    Raises:
        CheckpointError: `out` holds something else.
        DataError: The records in `out` cannot be read, or another evaluation is writing there.
    """
    started = time.monotonic()
    with claimed(out, SETTINGS, settings, holds="an evaluation", differing=_differing):
        evaluation, num_resumed = _evaluate(out, batches, load, on_batch or (lambda done, of: None))
    return evaluation, {"num_resumed": num_resumed, "seconds": round(time.monotonic() - started, 3)}


def task_digest(task: Task) -> str:
    """Compute a digest of all prompts and answers, by which two tasks of one name with other problems differ."""
    contents = json.dumps([task.prompts, task.answers], sort_keys=True, default=str)
    return hashlib.sha256(contents.encode()).hexdigest()[:16]


def problem_rows(task: Task) -> list[dict[str, Any]]:
    """List the problems of a task for people to read: `prompt`, and `answer`, which is None for tests and documents."""
    return [
        {"prompt": prompt, "answer": _readable_answer(answer)}
        for prompt, answer in zip(task.prompts, task.answers, strict=True)
    ]


def _readable_answer(answer: Any) -> str | int | float | None:
    if isinstance(answer, Decimal):
        return str(answer)
    return answer if isinstance(answer, str | int | float) else None


def _differing(before: Settings, now: Settings) -> list[str]:
    """Like `differing_settings`, but take any device for that of a directory in which an earlier version noted none."""
    return differing_settings({"device": now.get("device"), **before}, now)


def _evaluate(
    out: Path, batches: SampleBatches, load: Load, report: Callable[[int, int], None]
) -> tuple[Evaluation, int]:
    pieces = FinishedPieces(out / EXAMPLES)
    records = _of_whole_batches(pieces, batches)
    num_resumed, total = len(records), sum(map(len, batches.items))
    report(num_resumed, total)
    left = [index for index, batch in enumerate(batches.items) if batch[0] not in records]
    loaded = load() if left else None  # if it fails, the directory stays empty
    write_json_lines(out / PROBLEMS, problem_rows(batches.task))
    for index in left:
        assert loaded is not None
        for record in batches.run(index, *loaded):
            records[record.prompt, record.sample] = record
            pieces.add(asdict(record))
        report(len(records), total)
    return Evaluation([records[item] for item in sorted(records)]), num_resumed


def _of_whole_batches(pieces: FinishedPieces, batches: SampleBatches) -> dict[Item, ExampleRecord]:
    """Read the records of the batches that were finished, and remove all other records from the file."""
    try:
        records = {(record.prompt, record.sample): record for record in (ExampleRecord(**row) for row in pieces.rows)}
    except TypeError as error:
        raise DataError(f"{pieces.path}: not the records of an evaluation ({error}). Remove its directory.") from error
    whole = [item for batch in batches.items if all(item in records for item in batch) for item in batch]
    kept = {item: records[item] for item in whole}
    if len(kept) < len(pieces.rows):
        pieces.keep([asdict(record) for record in kept.values()])
    return kept
