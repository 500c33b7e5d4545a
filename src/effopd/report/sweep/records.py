"""The records of a sweep, as `effopd sweep` saved them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from effopd.errors import DataError
from effopd.files import read_json

FIGURES_FOLDER = "figures"


@dataclass(frozen=True, eq=False)
class SweepRecords:
    """The records of a sweep.

    Attributes:
        directory: Directory of the sweep.
        sweeps: Entries of the specification by name, each with its `preset` and the preset's fields.
        runs: Names of the methods, in the order of the specification.
        num_training_seeds: Number of training runs of each method, by its name.
        results: Rows of `results.parquet`, with the methods in the order of `runs`.
        num_cells: Number of evaluations that were planned; None if the sweep's version did not note it.
    """

    directory: Path
    sweeps: dict[str, dict[str, Any]]
    runs: tuple[str, ...]
    num_training_seeds: dict[str, int]
    results: pd.DataFrame
    num_cells: int | None = None


def read_sweep(directory: str | Path) -> SweepRecords:
    """Read the records of a sweep.

    Args:
        directory: Directory that was given to `effopd sweep` as `--out`.

    Raises:
        DataError: There are no records, or they are damaged.
    """
    directory = Path(directory)
    identity, path = read_json(directory / "sweep.json"), directory / "results.parquet"
    try:
        results = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}). Run `effopd sweep` with the same --out again.") from error
    seeds = {name: len(found) for name, found in identity["runs"].items()}
    order = {name: index for index, name in enumerate(seeds)}
    results = results.sort_values("run", key=lambda runs: runs.map(order), kind="stable", ignore_index=True)
    sweeps = {entry["name"]: entry for entry in identity["spec"]["sweeps"]}
    return SweepRecords(directory, sweeps, tuple(seeds), seeds, results, identity.get("num_cells"))
