"""What a study has on disk about one world, or about a user's models: weights measured, sweeps, and costs of training.

A role says what part a method plays in the claims: `opd`, `rl`, `effopd`, and so on. Seeds of two roles are paired.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from effopd.experiments.cost_to_target import QUANTITIES as COUNTED
from effopd.experiments.cost_to_target import CostRange, cost_range, to_target
from effopd.files import read_json, read_json_lines

ANALYSIS, ALIGNMENTS, EMBEDDINGS, COSTS, LINEARIZED = "analysis", "alignments", "embeddings", "costs", "linearized"
SWEEPS = ("update_norm", "embedding_replacement", "sliding_window", "top_bottom", "norm_matching")
_LINEARIZED = "linearized.json"


class Need(NamedTuple):
    """Records that a claim needs: a table of the analysis, a sweep, or the costs, of the runs of one role."""

    record: str
    role: str

    def __str__(self) -> str:
        if self.record == LINEARIZED:
            return "the local quadratic view (effopd linearize)"
        words = {ANALYSIS: "the analysis", COSTS: "the costs and accuracies (metrics.jsonl, and a target accuracy)"}
        if self.record in (ALIGNMENTS, EMBEDDINGS):
            return f"the table of {self.record} of {self.role}"
        return f"{words.get(self.record, f'the sweep {self.record}')} of {self.role}"


def needs(record: str, *roles: str) -> tuple[Need, ...]:
    """Name the same records of several roles."""
    return tuple(Need(record, role) for role in roles)


class UnresolvedError(Exception):
    """The records are there, and do not determine a claim's statistic. The message says why."""


class TooFewWorldsError(Exception):
    """A claim is about more worlds than the study has. The message says how many there are."""


@dataclass
class Records:
    """The records of one world.

    Attributes:
        world: Name of the world.
        planned: Role and seed of every run that is there or is to be.
        target: Accuracy up to which costs are counted, in [0, 1]; None if there is none.
        updates: Rows of `updates.parquet`, with the columns `role` and `seed` in place of `run`.
        alignments: Rows of `alignments.parquet`, likewise.
        embeddings: Rows of `embeddings.parquet`, likewise.
        sweep: Rows of a sweep's `results.parquet`, likewise; accuracies in [0, 1] in the column `mean`.
        cells_left: Number of the sweep's evaluations that are not there.
        metrics: Rows of `metrics.jsonl` of finished runs, by role and seed.
        finished: Contents of `run.json` by role and seed.
        linearized: Contents of `linearized.json` by seed.
    """

    world: str
    planned: frozenset[tuple[str, int]]
    target: float | None = None
    updates: pd.DataFrame = field(default_factory=pd.DataFrame)
    alignments: pd.DataFrame = field(default_factory=pd.DataFrame)
    embeddings: pd.DataFrame = field(default_factory=pd.DataFrame)
    sweep: pd.DataFrame = field(default_factory=pd.DataFrame)
    cells_left: int = 0
    metrics: Mapping[tuple[str, int], Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    finished: Mapping[tuple[str, int], Mapping[str, Any]] = field(default_factory=dict)
    linearized: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)

    def has(self, need: Need, seed: int) -> bool:
        """Tell whether the records hold what a claim needs of one seed."""
        if need.record == COSTS:
            rows = self.metrics.get((need.role, seed), ())
            return self.target is not None and any(row.get("accuracy") is not None for row in rows)
        if need.record == LINEARIZED:
            return seed in self.linearized
        tables = {ANALYSIS: self.updates, ALIGNMENTS: self.alignments, EMBEDDINGS: self.embeddings}
        table = tables.get(need.record, self.sweep)
        if table.empty:
            return False
        rows = (table["role"] == need.role) & (table["seed"] == seed)
        return bool((rows if need.record in tables else rows & (table["sweep"] == need.record)).any())

    def matrices(self, role: str, seed: int) -> pd.DataFrame:
        """Find the attention and MLP matrices of a run's last checkpoint."""
        rows = _of(self.updates, role, seed)
        return rows[(rows["checkpoint"] == rows["checkpoint"].max()) & rows["kind"].isin(["attention", "mlp"])]

    def mean_of_matrices(self, role: str, seed: int, column: str) -> float:
        """Average a column over the attention and MLP matrices of a run's last checkpoint."""
        return defined(self.matrices(role, seed)[column].mean(), f"{column} of {role} is not defined for any matrix")

    def norms_by_parameter(self, role: str, seed: int) -> dict[str, float]:
        """Find the Frobenius norm of each parameter's final update."""
        rows = _of(self.updates, role, seed)
        rows = rows[rows["checkpoint"] == rows["checkpoint"].max()]
        return dict(zip(rows["parameter"], rows["frobenius_norm"], strict=True))

    def numbers_of_elements(self, role: str, seed: int) -> dict[str, float]:
        """Find the number of elements of each parameter."""
        rows = _of(self.updates, role, seed)
        sizes = rows["rows"].fillna(1) * rows["cols"].fillna(1)
        return dict(zip(rows["parameter"], sizes, strict=True))

    def curve(self, sweep: str, role: str, seed: int, *kinds: str) -> pd.DataFrame:
        """Find the points of a sweep's curve: `value`, `mean`, `step` and norms, ordered by value.

        Several tasks and seeds of sampling are averaged.

        Raises:
            UnresolvedError: There are no such points, or evaluations of the sweep are missing, and averages would be of
                others than planned.
        """
        if self.cells_left:
            raise UnresolvedError(f"{self.cells_left} evaluations of the sweep failed or are not done")
        rows = _of(self.sweep, role, seed)
        rows = rows[(rows["sweep"] == sweep) & rows["kind"].isin(kinds)]
        if rows.empty:
            raise UnresolvedError(f"the sweep {sweep} of {role} has no curve {' or '.join(kinds)}")
        columns = ["mean", "step", "update_norm", "layer_norm"]
        return rows.groupby(["kind", "value"])[columns].mean().reset_index().sort_values("value", ignore_index=True)

    def accuracy(self, sweep: str, role: str, seed: int, kind: str, value: float) -> float:
        """Find the accuracy of one point of a sweep, in [0, 1].

        Raises:
            UnresolvedError: The sweep has no such point.
        """
        rows = self.curve(sweep, role, seed, kind)
        found = rows[rows["value"] == value]["mean"]
        if found.empty:
            raise UnresolvedError(f"the sweep {sweep} of {role} has no point {kind} {value:g}")
        return float(found.iloc[0])

    def base_accuracy(self, role: str, seed: int) -> float:
        """Find the accuracy of the base, which is the run's update times 0."""
        return self.accuracy("update_norm", role, seed, "scale", 0.0)

    def gain(self, role: str, seed: int) -> float:
        """Compute the accuracy of the final model less that of the base.

        Raises:
            UnresolvedError: It is not above 0, so that shares of it mean nothing.
        """
        found = self.accuracy("update_norm", role, seed, "scale", 1.0) - self.base_accuracy(role, seed)
        if found <= 0:
            raise UnresolvedError(f"{role} gained nothing over the base")
        return found

    def cost(self, role: str, seed: int, quantity: str) -> CostRange:
        """Find what a run had spent at its first evaluation that reached the target; its bounds if none did.

        Raises:
            UnresolvedError: The run did not count that quantity.
        """
        assert self.target is not None
        found = to_target(self.metrics[role, seed], self.target)
        if quantity not in found:
            raise UnresolvedError(
                f"metrics.jsonl of {role} is of an earlier version, and does not count {COUNTED[quantity]}"
            )
        return cost_range(found, quantity)

    def accuracies(self, role: str, seed: int) -> dict[int, float]:
        """Find the accuracies that a run measured while it trained, in [0, 1], by step."""
        rows = self.metrics[role, seed]
        return {int(row["step"]): float(row["accuracy"]) for row in rows if row.get("accuracy") is not None}


def defined(value: float, why: str) -> float:
    """Return a number, or raise `UnresolvedError` if it is NaN."""
    if pd.isna(value):
        raise UnresolvedError(why)
    return float(value)


def read_records(
    world: str,
    runs: Mapping[tuple[str, int], Path | None],
    *,
    labels: Mapping[str, str],
    analysis: Path,
    sweep: Path,
    target: float | None,
    linearized: Mapping[int, Path] | None = None,
) -> Records:
    """Read the records of one world. What is not there is left empty.

    Args:
        world: Name of the world.
        runs: Every run's directory by role and seed; None for a run of several directories, which has no costs.
        labels: For each role, the name of its runs in the sweep. A training seed of the sweep is the index of the seed.
        analysis: Directory of the analysis, in which a run is called ROLE-SEED.
        sweep: Directory of the sweep.
        target: Accuracy up to which costs are counted, in [0, 1].
        linearized: Directories that `effopd linearize` wrote, by seed.
    """
    names = {f"{role}-{seed}": (role, seed) for role, seed in runs}
    tables = {}
    for table in ("updates", ALIGNMENTS, EMBEDDINGS):
        rows = _table(analysis / f"{table}.parquet")
        if not rows.empty:
            rows = rows[rows["run"].isin(list(names))]
            rows = rows.assign(role=[names[run][0] for run in rows["run"]], seed=[names[run][1] for run in rows["run"]])
        tables[table] = rows
    swept, cells_left = _table(sweep / "results.parquet"), 0
    if not swept.empty:
        cells_left = int(read_json(sweep / "sweep.json")["num_cells"]) - swept["cell"].nunique()
        roles = {label: role for role, label in labels.items()}
        swept = swept[swept["run"].isin(list(roles))]
        seeds = {role: sorted(seed for each, seed in runs if each == role) for role in labels}
        places = zip(swept["run"].map(roles), swept["training_seed"], strict=True)
        # The column `seed` of a sweep is that of sampling, over which a curve averages.
        swept = swept.assign(role=swept["run"].map(roles), seed=[seeds[role][number] for role, number in places])
    finished = {key: path for key, path in runs.items() if path is not None and (path / "run.json").exists()}
    return Records(
        world,
        frozenset(runs),
        target,
        **tables,
        sweep=swept,
        cells_left=cells_left,
        metrics={key: read_json_lines(path / "metrics.jsonl") for key, path in finished.items() if _has_costs(path)},
        finished={key: read_json(path / "run.json") for key, path in finished.items()},
        linearized={
            seed: read_json(path / _LINEARIZED)
            for seed, path in (linearized or {}).items()
            if (path / _LINEARIZED).exists()
        },
    )


def _has_costs(run: Path) -> bool:
    return (run / "metrics.jsonl").exists()


def _of(table: pd.DataFrame, role: str, seed: int) -> pd.DataFrame:
    return table[(table["role"] == role) & (table["seed"] == seed)]


def _table(path: Path) -> pd.DataFrame:
    return pd.read_parquet(path) if path.exists() else pd.DataFrame()
