"""What the paper's interventions show on the embedded world's runs, as comparisons with intervals over seeds.

    effopd world runs --out runs/world
    effopd sweep world --root runs/world --out runs/world-sweep
    python benchmarks/world_sweep.py --sweep runs/world-sweep

This copies the rows to results/world_sweep.parquet and the figures to docs/figures/world_sweep. It writes the
comparisons and the tables of every figure to results/world_sweep.{json,md}.

Brackets are 95 % t-intervals over the seeds of training; those of differences are by Welch's t.
"""

import argparse
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from world_analysis import difference, interval

from effopd.files import write_json, write_text

RUNS = ("OPD", "EffOPD", "GRPO")
RESULTS = Path(__file__).parent / "results"
FIGURES = Path(__file__).parents[1] / "docs" / "figures" / "world_sweep"
Comparison = dict[str, Any]


def comparison(what: str, run: str, numbers: list[float]) -> Comparison:
    return {"what": what, "run": run, **dict(zip(("mean", "low", "high"), numbers, strict=True))}


def mean(what: str, run: str, values: np.ndarray) -> Comparison:
    return comparison(what, run, interval(values.tolist()))


class Rows:
    """Finds the rows of a sweep by sweep, run and further columns."""

    def __init__(self, rows: pd.DataFrame) -> None:
        self.rows = rows

    def __call__(self, sweep: str, run: str, **where: Any) -> np.ndarray:
        """Find the accuracy of each seed of training at one point."""
        chosen = self.rows[(self.rows["sweep"] == sweep) & (self.rows["run"] == run)]
        for column, value in where.items():
            chosen = chosen[chosen[column] == value]
        return chosen.sort_values("training_seed")["mean"].to_numpy()

    def at_norm(self, run: str, kind: str, norm: float) -> np.ndarray:
        """Find the accuracy of each seed at a norm of the update, linearly between the points of its curve."""
        rows = self.rows[(self.rows["sweep"] == "update_norm") & (self.rows["run"] == run)]
        curve = rows[(rows["kind"] == kind) | ((rows["kind"] == "scale") & (rows["value"] == 0))]
        seeds = [of.sort_values("update_norm") for _, of in curve.groupby("training_seed")]
        return np.array([np.interp(norm, of["update_norm"], of["mean"]) for of in seeds])

    def finals(self, run: str) -> np.ndarray:
        return self("update_norm", run, kind="scale", value=1.0)


def compare(rows: Rows) -> list[Comparison]:
    base = rows("update_norm", "OPD", kind="scale", value=0.0)[0]
    found = []
    for kind, label in (("scale", "final update, scaled"), ("checkpoint", "over training")):
        for norm in (1.0, 1.5, 3.0, 3.5):
            at = {run: rows.at_norm(run, kind, norm) for run in RUNS}
            what = f"accuracy at norm {norm:g}, {label}"
            found += [mean(what, run, values) for run, values in at.items()]
            found += [
                comparison(what, f"{run} - {other}", difference(at[run].tolist(), at[other].tolist()))
                for run, other in (RUNS[::2], RUNS[1::-1])
            ]
    for run in RUNS:
        final = rows.finals(run)
        found.append(mean("final accuracy", run, final))
        replaced = rows("embedding_replacement", run, kind="replace-embeddings")
        found.append(mean("change by the base's embeddings", run, replaced - final))
        for kind, percents in (("top", (1, 10, 100)), ("bottom", (90, 95, 99, 100))):
            found += [
                mean(f"accuracy, {kind} {percent} %", run, rows("top_bottom", run, kind=kind, value=float(percent)))
                for percent in percents
            ]
        steps = rows.rows[(rows.rows["sweep"] == "norm_matching") & (rows.rows["run"] == run)]["step"]
        early = min(steps.unique(), key=lambda step: abs(step - 0.1 * steps.max()))
        points = {
            f"step {early}": rows("norm_matching", run, kind="checkpoint", step=early),
            f"step {early}, final norm": rows("norm_matching", run, kind="norm-match", step=early),
            **{f"step {early}, beta {b}": rows("norm_matching", run, kind="beta", value=b) for b in (0.5, 0.75)},
        }
        for what, values in points.items():
            found.append(mean(f"accuracy, {what}", run, values))
            found.append(mean(f"share of final accuracy, {what}", run, values / final))
            found.append(mean(f"share of gain over the base, {what}", run, (values - base) / (final - base)))
    return found


def table(found: list[Comparison], sweep: str) -> str:
    lines = ["# Interventions on the embedded world", "", (__doc__ or "").split("\n\n")[-1].strip(), ""]
    lines += ["| | run | % |", "|---|---|---|"]
    for row in found:
        low, middle, high = (f"{100 * row[name]:.1f}" for name in ("low", "mean", "high"))
        lines.append(f"| {row['what']} | {row['run']} | {middle} [{low}, {high}] |")
    figures = sweep.partition("\n")[2].replace("](figures/", "](../../docs/figures/world_sweep/")
    return "\n".join(lines) + "\n" + figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweep", type=Path, required=True, help="directory that `effopd sweep world` wrote")
    sweep = parser.parse_args().sweep
    rows = pd.read_parquet(sweep / "results.parquet").drop(columns="node")
    found = compare(Rows(rows))
    rows.to_parquet(RESULTS / "world_sweep.parquet")
    FIGURES.mkdir(parents=True, exist_ok=True)
    for figure in (sweep / "figures").iterdir():
        if figure.suffix != ".pdf":  # for papers, not for pages
            shutil.copyfile(figure, FIGURES / figure.name)
    write_json(RESULTS / "world_sweep.json", found)
    write_text(RESULTS / "world_sweep.md", table(found, (sweep / "sweep.md").read_text()))


if __name__ == "__main__":
    main()
