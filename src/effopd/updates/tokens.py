"""The embedding shift of a run's checkpoints, for all tokens or those of a text, and the tokens themselves."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from effopd.checkpoints import Pair, find_checkpoints, open_model, open_pair
from effopd.errors import DataError
from effopd.files import read_json_lines, read_text, replaced
from effopd.parameters import locate
from effopd.updates.assemble import write_table
from effopd.updates.embedding import embedding_shift
from effopd.updates.token_table import FinalShift, row_chunks, token_tables

_SHIFT_SCHEMA = pa.schema(
    [
        ("run", pa.string()),
        ("parameter", pa.string()),
        ("checkpoint", pa.int64()),
        ("step", pa.int64()),
        ("num_tokens", pa.int64()),
        ("num_undefined", pa.int64()),
        *((name, pa.float64()) for name in ("mean", "p05", "median", "p95")),
    ]
)


def tokens_of(text: Path, base: str | Path) -> Tensor:
    """List the tokens of a model that occur in a file of texts.

    Args:
        text: Path of a text file, or of completions as JSON Lines, which may be compressed (`.jsonl.gz`): those of
            `effopd evaluate` and `effopd sweep`, whose rows have `completion`.
        base: Directory or hub name of the model.

    Returns:
        Token ids, ascending, int64 [N].

    Raises:
        DataError: The file is not UTF-8, it has no token, or it has characters for which there is no token; its rows
            are JSON and have no `completion`; or the model has no tokenizer.
    """
    contents = _texts(text)
    tokenizer = _tokenizer(base, required=True)
    try:
        ids = [token for each in contents for token in tokenizer(each, add_special_tokens=False)["input_ids"]]
    except Exception as error:  # the package tokenizers raises nothing narrower
        raise DataError(
            f"{text} holds characters for which the tokenizer of {base} has no token ({error}). Remove them; a line "
            "break at the end of the file may be one."
        ) from error
    if not ids:
        raise DataError(f"{text} holds no token. Give a text in the language of the model.")
    return torch.tensor(sorted(set(ids)))


def _texts(path: Path) -> list[str]:
    """Read a text file as one text, or JSON Lines as the completions of their rows. JSON is never taken for text."""
    try:
        content = read_text(path)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: {error}. Give a UTF-8 text file.") from error
    first = next((line for line in content.split("\n") if line.strip()), "")
    if not {".jsonl", ".json"} & set(path.suffixes) and not _is_json_object(first):
        return [content]
    rows: list[Any] = read_json_lines(path) if _is_json_object(first) else [None]
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict) or not isinstance(row.get("completion"), str):
            has = ", ".join(row) if isinstance(row, dict) else "no JSON object"
            raise DataError(
                f"{path}, row {number}: got {has}, expected a row with the text `completion`. Give the examples.jsonl"
                " of `effopd evaluate`, a file of a sweep's completions, or plain text."
            )
    return [row["completion"] for row in rows]


def _is_json_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def write_embedding_tables(
    base: str | Path, runs: dict[str, Any], out: Path, *, ignore: Sequence[str] = (), wanted: Tensor | None = None
) -> None:
    """Write `embeddings.parquet` and `embedding_tokens.parquet`.

    Args:
        base: Directory or hub name of the model that the runs started from.
        runs: Runs by name, as for `measure_runs`.
        out: Directory of the analysis.
        ignore: Regular expressions of parameter names to leave out.
        wanted: Ids of the tokens that count, ascending, int64 [N]; None for all rows of the matrices.
    """
    shifts: list[dict[str, Any]] = []
    finals: dict[str, dict[str, FinalShift]] = {}
    tokenizer = _tokenizer(base, required=False)
    for run, path in runs.items():
        checkpoints = find_checkpoints(path)
        for index, checkpoint in enumerate(checkpoints):
            pair = open_pair(base, checkpoint.directory, ignore)
            for parameter in _token_matrices(pair):
                found = _shift(pair, parameter, wanted)
                row = {"run": run, "parameter": parameter, "checkpoint": index, "step": checkpoint.step}
                shifts.append(row | _summary(found.cosine))
                if index == len(checkpoints) - 1:
                    finals.setdefault(parameter, {})[run] = found
    write_table(shifts, _SHIFT_SCHEMA, out / "embeddings.parquet")
    with replaced(out / "embedding_tokens.parquet") as temporary:
        pq.write_table(token_tables(finals, tokenizer), temporary)


def _token_matrices(pair: Pair) -> list[str]:
    """List the embedding of tokens and the output head, if it has weights of its own; not embeddings of positions."""
    largest = max((rows for name, (rows, _) in pair.matrices.items() if locate(name).kind == "embedding"), default=0)
    return [
        name
        for name, (rows, _) in pair.matrices.items()
        if locate(name).kind in ("embedding", "lm_head") and rows >= largest
    ]


def _shift(pair: Pair, parameter: str, ids: Tensor | None) -> FinalShift:
    """Compare the rows of tokens with only a chunk of them in memory."""
    num_rows = pair.matrices[parameter][0]
    ids = torch.arange(num_rows) if ids is None else ids[ids < num_rows]
    cosines, lengths = [], []
    for start, base, trained, chunk in row_chunks(pair, parameter, ids):
        cosines.append(embedding_shift(base, trained, chunk - start).cosine)
        before, after = base[chunk - start], trained[chunk - start]
        lengths.append((after - before).norm(dim=1) / before.norm(dim=1))  # NaN where the base's row is zero
    return FinalShift(pair, ids, torch.cat(cosines), torch.cat(lengths))


def _summary(cosine: Tensor) -> dict[str, Any]:
    defined = cosine[~cosine.isnan()]
    numbers = dict.fromkeys(("mean", "p05", "median", "p95"))
    if len(defined):
        quantiles = np.quantile(defined.numpy(), (0.05, 0.5, 0.95))  # torch.quantile is limited to 16 million values
        numbers |= dict(zip(("p05", "median", "p95"), quantiles.tolist(), strict=True)) | {
            "mean": float(defined.mean())
        }
    return {"num_tokens": len(cosine), "num_undefined": len(cosine) - len(defined), **numbers}


def _tokenizer(base: str | Path, *, required: bool) -> Any:
    """Load the base's tokenizer; None if it has none and none is required."""
    from effopd.models.load import load_tokenizer  # imported here, because it loads transformers

    directory = open_model(base).directory
    try:
        return load_tokenizer(directory, require_pad_token=False)
    except DataError as error:
        if not required:
            return None
        raise DataError(f"{directory} has no tokenizer that loads ({error.__cause__}); --text needs one.") from error
