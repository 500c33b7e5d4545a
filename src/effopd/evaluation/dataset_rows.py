"""The rows of a dataset: from a local file, or from the hub by `datasets`."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, load_dataset
from datasets.exceptions import DatasetsError

from effopd.errors import DataError, listing
from effopd.files import kind_of_file, read_json_lines

Row = dict[str, Any]
SUFFIXES = (".jsonl", ".json", ".parquet", ".arrow")


def read_rows(path: Path, limit: int | None = None) -> list[Row]:
    """Read the rows of a `.jsonl`, `.json` (an array of objects), `.parquet` or `.arrow` file.

    Args:
        path: Path of the file.
        limit: Number of rows to read; None reads all.

    Raises:
        DataError: The file is missing or cannot be read, it has no rows, or a row is not an object.
    """
    rows: Any
    if path.suffix in SUFFIXES and not path.exists():
        raise DataError(f"{path}: {kind_of_file(path)}. {_what_is_there(path.parent.resolve())}")
    try:
        if path.suffix == ".jsonl":
            rows = read_json_lines(path, may_be_cut=False)
        elif path.suffix == ".json":
            rows = json.loads(path.read_text(encoding="utf-8"))
        elif path.suffix == ".parquet":
            rows = pq.read_table(path).slice(0, limit).to_pylist()
        elif path.suffix == ".arrow":
            rows = Dataset.from_file(str(path)).to_list()
        else:
            raise DataError(f"{path}: {kind_of_file(path)}, expected one whose name ends in {', '.join(SUFFIXES)}.")
    except DataError:
        raise
    except (OSError, ValueError, RecursionError, pa.ArrowException) as error:
        raise DataError(f"{path}: cannot be read: {error}.") from error
    if not isinstance(rows, list):
        raise DataError(
            f"{path}: got a JSON {'object' if isinstance(rows, dict) else type(rows).__name__}, expected an array of "
            "objects. Put what it holds in brackets, [...], or take a .jsonl file with an object in each line."
        )
    if not rows:
        raise DataError(f"{path}: no rows; expected at least one, as JSON objects.")
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise DataError(f"{path}, row {number}: got a {type(row).__name__}, expected a JSON object.")
    return rows[:limit]


def _what_is_there(directory: Path) -> str:
    """Say for a message which files of rows a directory has."""
    if not directory.is_dir():
        return f"There is no directory {directory} either; give the path of a file that is there."
    found = sorted(each.name for each in directory.iterdir() if each.suffix in SUFFIXES)
    return f"Give one that is there; {directory} has {listing(found) if found else f'none of {listing(SUFFIXES)}'}."


def download_rows(name: str, config: str | None, split: str) -> list[Row]:
    """Download the rows of a dataset on the hub.

    Args:
        name: Name of the dataset.
        config: Name of its configuration; None for the default one.
        split: Name of the split.

    Raises:
        DataError: The dataset cannot be loaded.
    """
    try:
        dataset = load_dataset(name, config, split=split)
    except (OSError, ValueError, RuntimeError, DatasetsError) as error:
        raise DataError(
            f"{name}: cannot load split {split!r} of configuration {config!r}: {error}\nWithout a network, download its"
            " file elsewhere and pass --data FILE; for gated datasets, `hf auth login`."
        ) from error
    return [dict(row) for row in dataset]
