"""The plan of an analysis: a job for every parameter of every checkpoint."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from effopd import __version__
from effopd.checkpoints import Pair, find_checkpoints, open_pair
from effopd.checks import check_file_name
from effopd.errors import ConfigurationError, listing
from effopd.models.directory import weights_digest
from effopd.run_directory import differing_settings
from effopd.updates.gram import Precision
from effopd.updates.measure import parameters

Runs = Mapping[str, str | Path | Sequence[str | Path]]
"""For each name of a run, what `effopd.checkpoints.find_checkpoints` takes."""

_LONGEST_NAME = 200  # bytes


@dataclass(frozen=True)
class Job:
    """One parameter of one checkpoint, to be measured.

    Attributes:
        run: Name of the run.
        checkpoint: Index of the checkpoint in its run, from 0.
        step: Number of optimizer steps taken, if it is known.
        parameter: Name of the parameter.
        size: Rows and columns of the parameter.
        cost: Rough amount of arithmetic, by which long jobs are started first and the time left is estimated.
        base: Directory of the base.
        directories: Directories of the checkpoint and, before it, of up to two checkpoints that precede it.
        ignore: Regular expressions of names that are left out.
        out: Directory of the analysis.
        precision: Precision of the spectrum.
        device: Device on which matrices are decomposed.
    """

    run: str
    checkpoint: int
    step: int | None
    parameter: str
    size: tuple[int, int]
    cost: float
    base: Path
    directories: tuple[Path, ...]
    ignore: tuple[str, ...]
    out: Path
    precision: Precision
    device: str

    @property
    def key(self) -> tuple[str, int, str]:
        """Run, checkpoint and parameter, which no two jobs of an analysis share."""
        return self.run, self.checkpoint, self.parameter


def plan_jobs(
    base: str | Path, runs: Runs, out: Path, ignore: Sequence[str], precision: Precision, device: str
) -> tuple[dict[str, Any], list[Job]]:
    """Find the checkpoints, check that they match the base, and list every job.

    The arguments are those of `measure_runs`.

    Returns:
        The settings of the analysis, as they are written to `analysis.json`, and the jobs in the order of runs,
        checkpoints and layers.

    Raises:
        ConfigurationError: A run's name cannot name a directory, a pattern of `ignore` matches nothing, or nothing is
            left to analyse.
        DataError: A model cannot be read, or does not match the base.
    """
    jobs: list[Job] = []
    described: list[dict[str, Any]] = []
    ignored: dict[str, None] = {}  # ordered sets
    unknown: dict[str, None] = {}
    base_directory: Path | None = None
    for run, path in runs.items():
        check_file_name("run name", run, _LONGEST_NAME)
        checkpoints = find_checkpoints(path)
        pairs = [open_pair(base, checkpoint.directory, ignore) for checkpoint in checkpoints]
        base_directory = pairs[0].base.directory
        described.append({"name": run, "checkpoints": [checkpoint.identity() for checkpoint in checkpoints]})
        for index, (checkpoint, pair) in enumerate(zip(checkpoints, pairs, strict=True)):
            ignored |= dict.fromkeys(pair.ignored)
            unknown |= dict.fromkeys(pair.other)
            recent = tuple(found.directory for found in checkpoints[max(0, index - 2) : index + 1])
            for name, size in parameters(pair).items():
                shared = (_cost(pair, name, size), base_directory, recent, tuple(ignore), out, precision, device)
                jobs.append(Job(run, index, checkpoint.step, name, size, *shared))
    if base_directory is None:
        raise ConfigurationError("Got no run to analyse; expected at least one, NAME=DIR.")
    _check_something_is_left(ignore, ignored, jobs)
    settings = {
        "base": str(base_directory.resolve()),
        "base_files": weights_digest(base_directory),
        "runs": described,
        "settings": {"ignore": list(ignore), "precision": precision},
        "ignored": list(ignored),
        "unknown": list(unknown),
        "versions": {"effopd": __version__, "torch": torch.__version__},
    }
    return settings, jobs


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Describe in what an analysis differs from an earlier one, so that it cannot continue that one.

    Runs may have been added, and a run may have got more checkpoints.

    Args:
        before: Settings of the earlier analysis, from `analysis.json`.
        now: Settings of this one.
    """
    plain = [{"base": each["base"], **each["settings"]} for each in (before, now)]
    changed = differing_settings(*plain)
    if before.get("base_files", now["base_files"]) != now["base_files"]:
        changed.append("base, whose files have changed since")
    runs = {run["name"]: run["checkpoints"] for run in now["runs"]}
    for run in before["runs"]:
        if run["name"] not in runs:
            changed.append(f"run {run['name']}, which is not among the runs now")
        elif runs[run["name"]][: len(run["checkpoints"])] != run["checkpoints"]:
            changed.append(f"run {run['name']}, of which checkpoints or their files have changed since")
    return changed


def _check_something_is_left(ignore: Sequence[str], ignored: Iterable[str], jobs: Sequence[Job]) -> None:
    if idle := [pattern for pattern in ignore if not any(re.search(pattern, name) for name in ignored)]:
        names = [*ignored, *dict.fromkeys(job.parameter for job in jobs)]
        raise ConfigurationError(
            f"ignore: no tensor's name matches {', '.join(map(repr, idle))}; the names begin {listing(names, 3)}. "
            "Correct the pattern, or leave it out."
        )
    if not jobs:
        why = "the patterns to ignore leave no tensor" if ignored else "the models hold no floating-point tensor"
        raise ConfigurationError(f"Got nothing to analyse: {why}. Give narrower patterns, or other models.")


def _cost(pair: Pair, name: str, size: tuple[int, int]) -> float:
    long, short = max(size), min(size)
    return long * short * (200.0 + (short if name in pair.matrices else 0))
