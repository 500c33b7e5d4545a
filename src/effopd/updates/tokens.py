"""The embedding shift of a run's checkpoints, for all tokens or those of a text, and a picture of some tokens."""

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from effopd.checkpoints import Pair, find_checkpoints, open_model, open_pair
from effopd.errors import DataError
from effopd.files import read_json_lines, read_text
from effopd.parameters import locate
from effopd.updates.assemble import write_table
from effopd.updates.embedding import embedding_picture, embedding_shift

_CHUNK_ROWS = 8192
_NUM_PICTURED = 300
_WHO = [("run", pa.string()), ("parameter", pa.string())]
_SHIFT_SCHEMA = pa.schema(
    [
        *_WHO,
        ("checkpoint", pa.int64()),
        ("step", pa.int64()),
        ("num_tokens", pa.int64()),
        ("num_undefined", pa.int64()),
        *((name, pa.float64()) for name in ("mean", "p05", "median", "p95")),
    ]
)
_TOKEN_SCHEMA = pa.schema(
    [
        *_WHO,
        ("token_id", pa.int64()),
        ("token", pa.string()),
        *((name, pa.float64()) for name in ("cosine", "base_x", "base_y", "trained_x", "trained_y")),
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
    tokens: list[dict[str, Any]] = []
    tokenizer = _tokenizer(base, required=False)
    for run, path in runs.items():
        checkpoints = find_checkpoints(path)
        for index, checkpoint in enumerate(checkpoints):
            pair = open_pair(base, checkpoint.directory, ignore)
            for parameter in _token_matrices(pair):
                ids, cosine = _shift(pair, parameter, wanted)
                row = {"run": run, "parameter": parameter, "checkpoint": index, "step": checkpoint.step}
                shifts.append(row | _summary(cosine))
                if index == len(checkpoints) - 1:
                    tokens += _picture(run, pair, parameter, ids, cosine, tokenizer)
    write_table(shifts, _SHIFT_SCHEMA, out / "embeddings.parquet")
    write_table(tokens, _TOKEN_SCHEMA, out / "embedding_tokens.parquet")


def _token_matrices(pair: Pair) -> list[str]:
    """List the embedding of tokens and the output head, if it has weights of its own; not embeddings of positions."""
    largest = max((rows for name, (rows, _) in pair.matrices.items() if locate(name).kind == "embedding"), default=0)
    return [
        name
        for name, (rows, _) in pair.matrices.items()
        if locate(name).kind in ("embedding", "lm_head") and rows >= largest
    ]


def _shift(pair: Pair, parameter: str, ids: Tensor | None) -> tuple[Tensor, Tensor]:
    """Compute the cosines of tokens with only a chunk of the rows in memory, and return ids and cosines."""
    num_rows = pair.matrices[parameter][0]
    ids = torch.arange(num_rows) if ids is None else ids[ids < num_rows]
    cosines = [
        embedding_shift(base, trained, chunk - start).cosine
        for start, base, trained, chunk in _chunks(pair, parameter, ids)
    ]
    return ids, torch.cat(cosines)


def _chunks(pair: Pair, parameter: str, ids: Tensor) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
    """Yield chunks of rows: index of the first row, base rows and trained rows in float64, and the ids among them."""
    for start in range(0, pair.matrices[parameter][0], _CHUNK_ROWS):
        chunk = ids[(ids >= start) & (ids < start + _CHUNK_ROWS)]
        if len(chunk):
            window = slice(start, start + _CHUNK_ROWS)
            base = pair.base.read(parameter, window).double()
            yield start, base, base + pair.delta(parameter, window), chunk


def _summary(cosine: Tensor) -> dict[str, Any]:
    defined = cosine[~cosine.isnan()]
    numbers = dict.fromkeys(("mean", "p05", "median", "p95"))
    if len(defined):
        quantiles = np.quantile(defined.numpy(), (0.05, 0.5, 0.95))  # torch.quantile is limited to 16 million values
        numbers |= dict(zip(("p05", "median", "p95"), quantiles.tolist(), strict=True)) | {
            "mean": float(defined.mean())
        }
    return {"num_tokens": len(cosine), "num_undefined": len(cosine) - len(defined), **numbers}


def _picture(run: str, pair: Pair, parameter: str, ids: Tensor, cosine: Tensor, tokenizer: Any) -> list[dict[str, Any]]:
    """Place up to 300 tokens, evenly spread over the ids, in the plane of their principal components."""
    chosen = torch.linspace(0, len(ids) - 1, min(len(ids), _NUM_PICTURED)).round().long()
    picked = ids[chosen]
    rows = [
        (base[chunk - start], trained[chunk - start])
        for start, base, trained, chunk in _chunks(pair, parameter, picked)
    ]
    base, trained = (torch.cat(parts) for parts in zip(*rows, strict=True))
    before, after = embedding_picture(base, trained, torch.arange(len(picked)))
    return [
        {
            "run": run,
            "parameter": parameter,
            "token_id": token,
            "token": tokenizer.decode([token]) if tokenizer else "",
            "cosine": None if math.isnan(value) else value,
            **dict(zip(("base_x", "base_y", "trained_x", "trained_y"), place, strict=True)),
        }
        for token, value, place in zip(
            picked.tolist(), cosine[chosen].tolist(), torch.cat([before, after], dim=1).tolist(), strict=True
        )
    ]


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
