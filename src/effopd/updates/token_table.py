"""The table of tokens: how far each has moved at the end of each run, and a picture of some of them in one plane."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from effopd.checkpoints import Pair
from effopd.updates.blocks import row_windows
from effopd.updates.embedding import embedding_picture

_NUM_PICTURED = 300
_METHODS: dict[str, Literal["pca", "tsne"]] = {"": "pca", "tsne_": "tsne"}
_PLACES = [f"{method}{which}_{axis}" for method in _METHODS for which in ("base", "trained") for axis in "xy"]
_SCHEMA = pa.schema(
    [("run", pa.string()), ("parameter", pa.string()), ("token_id", pa.int64()), ("token", pa.string())]
    + [(name, pa.float64()) for name in ("cosine", "relative_shift", *_PLACES)]
)


@dataclass(frozen=True, eq=False)
class FinalShift:
    """How far the rows of tokens have moved in one model.

    Attributes:
        pair: The base and the model.
        ids: Ids of the tokens, int64 [N].
        cosine: Cosine of each token's two rows, float64 [N]; NaN if one of them is zero.
        relative_shift: Length of each token's shift, over that of its row in the base, float64 [N]; NaN if that is
            zero.
    """

    pair: Pair
    ids: Tensor
    cosine: Tensor
    relative_shift: Tensor


def token_tables(finals: Mapping[str, Mapping[str, FinalShift]], tokenizer: Any) -> pa.Table:
    """Make the rows of `embedding_tokens.parquet`.

    Args:
        finals: For each parameter, the shift at the end of each run. All are of the same tokens.
        tokenizer: Tokenizer of the base, for the texts of the tokens; None leaves them empty.
    """
    tables = [_SCHEMA.empty_table()]
    for parameter, runs in finals.items():
        ids = next(iter(runs.values())).ids
        texts = tokenizer.batch_decode(ids[:, None].tolist()) if tokenizer else [""] * len(ids)
        # Tokens are pictured that are spread evenly over the ids.
        chosen = torch.linspace(0, len(ids) - 1, min(len(ids), _NUM_PICTURED)).round().long()
        pictures = _pictures(parameter, runs, ids[chosen])
        for run, final in runs.items():
            columns: dict[str, Any] = {
                "run": [run] * len(ids),
                "parameter": [parameter] * len(ids),
                "token_id": ids.numpy(),
                "token": texts,
                "cosine": final.cosine.numpy(),
                "relative_shift": final.relative_shift.numpy(),
            }
            for name in _PLACES:
                columns[name] = np.full(len(ids), np.nan)
                columns[name][chosen.numpy()] = pictures[run][name].numpy()
            arrays = [pa.array(columns[field.name], field.type, from_pandas=True) for field in _SCHEMA]
            tables.append(pa.table(arrays, schema=_SCHEMA))
    return pa.concat_tables(tables)


def row_chunks(pair: Pair, parameter: str, ids: Tensor) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
    """Yield chunks of rows: index of the first row, base rows and trained rows in float64, and the ids among them."""
    for window in row_windows(pair.matrices[parameter]):
        chunk = ids[(ids >= window.start) & (ids < window.stop)]
        if len(chunk):
            base = pair.base.read(parameter, window).double()
            yield window.start, base, base + pair.delta(parameter, window), chunk


def _pictures(parameter: str, runs: Mapping[str, FinalShift], ids: Tensor) -> dict[str, dict[str, Tensor]]:
    """Place tokens in one plane for the base and all runs; return the coordinates by run and column."""
    base, trained = torch.empty(0), []
    for final in runs.values():
        rows = [(b[chunk - at], t[chunk - at]) for at, b, t, chunk in row_chunks(final.pair, parameter, ids)]
        base, after = (torch.cat(parts) for parts in zip(*rows, strict=True))
        trained.append(after)
    found: dict[str, dict[str, Tensor]] = {run: {} for run in runs}
    for name, method in _METHODS.items():
        before, *after_each = embedding_picture(base, trained, torch.arange(len(ids)), method=method)
        for run, after in zip(runs, after_each, strict=True):
            for which, places in (("base", before), ("trained", after)):
                found[run] |= {f"{name}{which}_{axis}": places[:, index] for index, axis in enumerate("xy")}
    return found
