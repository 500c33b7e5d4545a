"""The paper's measurements on the embedded world's own runs of OPD, EffOPD and GRPO, over seeds.

    effopd world runs --out runs/world                                   # six minutes a seed on one idle core
    python benchmarks/world_analysis.py --runs runs/world --out runs/world-analysis

This writes results/world_analysis.{json,md}, and the figures of seed 0 to docs/figures/world_analysis.
"""

import argparse
import os
import shutil
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pandas as pd
from scipy import stats
from transformers import AutoModelForCausalLM, AutoTokenizer

from effopd.analysis import analyze
from effopd.files import write_json, write_text
from effopd.parameters import locate
from effopd.world import base_dir, make_dataset, measure_accuracy

METHODS = {"opd": "OPD", "effopd": "EffOPD", "grpo": "GRPO"}
FIGURES = Path(__file__).parents[1] / "docs" / "figures" / "world_analysis"
EVALUATION_PROBLEMS = 2048
COLUMNS = {
    "accuracy": "accuracy",
    "update_norm": "norm of the update",
    "spectral_to_frobenius": "spectral / Frobenius",
    "effective_rank": "effective rank",
    "top1pct_norm_ratio": "top-1 % ratio",
    "embedding_cosine": "embedding cosine",
    "trajectory_evr": "EVR_{0:2} of u_1",
    "mlp_share": "MLP's share of the squared norm",
    "base_lm_head": "accuracy with the base's output head",
    "base_embedding": "accuracy with the base's embeddings",
    "base_norm": "accuracy with the base's normalisations",
}


def last_checkpoint(updates: pd.DataFrame, embeddings: pd.DataFrame, run: str) -> dict[str, float]:
    """Take the numbers of a run's last checkpoint, as means over attention and MLP matrices."""
    rows = updates[(updates.run == run) & (updates.checkpoint == updates[updates.run == run].checkpoint.max())]
    matrices = rows[rows.kind.isin(["attention", "mlp"])]
    shift = embeddings[(embeddings.run == run) & embeddings.parameter.str.contains("embed_tokens")]
    result = {
        name: float(matrices[name].mean())
        for name in ("spectral_to_frobenius", "effective_rank", "top1pct_norm_ratio", "trajectory_evr")
    }
    squares = rows.frobenius_norm**2
    result["update_norm"] = float(np.sqrt(squares.sum()))
    result["mlp_share"] = float(squares[rows.kind == "mlp"].sum() / squares.sum())
    result["embedding_cosine"] = float(shift[shift.checkpoint == shift.checkpoint.max()]["mean"].iloc[0])
    return result


def lock_in(updates: pd.DataFrame, run: str) -> list[dict[str, float]]:
    """Take the alignment with the last checkpoint over training, as means over attention and MLP matrices."""
    matrices = updates[(updates.run == run) & updates.kind.isin(["attention", "mlp"])]
    columns = ["vector_alignment", "first_vector_cosine", "subspace_alignment", "chance_alignment", "frobenius_norm"]
    means = matrices.groupby("step")[[*columns, "displacement_cosine"]].mean().reset_index()
    means["training"] = means.step / means.step.max()
    rows = means.astype(object).where(means.notna(), None).to_dict("records")
    return [{str(key): None if value is None else float(value) for key, value in row.items()} for row in rows]


def accuracies(directory: Path) -> dict[str, float]:
    """Measure the accuracy of a model, and its accuracy with the base's parameters of one kind put back into it."""
    model = AutoModelForCausalLM.from_pretrained(directory)
    base = dict(AutoModelForCausalLM.from_pretrained(base_dir()).named_parameters())
    tokenizer = AutoTokenizer.from_pretrained(directory, padding_side="left")
    problems = make_dataset("evaluation", EVALUATION_PROBLEMS)
    found = {"accuracy": float(measure_accuracy(model, tokenizer, problems)["accuracy"])}
    for kind in ("lm_head", "embedding", "norm"):
        parameters = {name: each.data for name, each in model.named_parameters() if locate(name).kind == kind}
        trained = {name: each.clone() for name, each in parameters.items()}
        for name, each in parameters.items():
            each.copy_(base[name].data)
        found[f"base_{kind}"] = float(measure_accuracy(model, tokenizer, problems)["accuracy"])
        for name, each in parameters.items():
            each.copy_(trained[name])
    return found


def interval(values: list[float]) -> list[float]:
    """Compute the mean and its 95 % interval by Student's t."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return [mean, float("nan"), float("nan")]
    half = float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))
    return [mean, mean - half, mean + half]


def difference(one: list[float], other: list[float]) -> list[float]:
    """Compute the difference of means and its 95 % interval by Welch's t."""
    found = stats.ttest_ind(one, other, equal_var=False).confidence_interval()
    return [float(np.mean(one) - np.mean(other)), float(found.low), float(found.high)]


def show(values: list[float], digits: int) -> str:
    mean, low, high = (f"{value:.{digits}f}" for value in values)
    return f"{mean} [{low}, {high}]"


def markdown(results: dict[str, Any], seeds: int) -> str:
    lines = [
        f"# OPD, EffOPD and GRPO on the embedded world, {seeds} seeds",
        "",
        "| | " + " | ".join(METHODS.values()) + " | OPD - GRPO |",
        "|---|" + "---|" * (len(METHODS) + 1),
    ]
    for key, label in COLUMNS.items():
        digits = {"effective_rank": 1, "embedding_cosine": 5, "update_norm": 2}.get(key, 3)
        cells = [show(results[method]["last"][key], digits) for method in METHODS]
        pair = ([run[key] for run in results[method]["by_seed"]] for method in ("opd", "grpo"))
        lines.append(f"| {label} | " + " | ".join([*cells, show(difference(*pair), digits)]) + " |")
    lines += [
        "",
        "These numbers are of the last checkpoint: means over attention and MLP matrices (28), then over seeds. "
        "Brackets are 95 % intervals over seeds, of the mean by Student's t and of the difference by Welch's t. They "
        "are not cut off where a value cannot be. "
        f"Accuracy is measured on {EVALUATION_PROBLEMS:,} problems, with one sample each.",
        "",
        "Alignment with the run's own last checkpoint (mean over matrices and seeds):",
        "",
        "| | training | vectors 1..20 | first vector | subspace (rms) | chance | norm of the last |",
        "|---|---|---|---|---|---|---|",
    ]
    for method, label in METHODS.items():
        rows = pd.DataFrame(row for run in results[method]["lock_in"] for row in run)
        means = rows.groupby("training").mean().reset_index()
        for share in (0.1, 0.25, 0.5, 0.75):
            row = means.iloc[(means.training - share).abs().argmin()]
            lines.append(
                f"| {label} | {row.training:.0%} (step {row.step:.0f}) | {row.vector_alignment:.2f} "
                f"| {row.first_vector_cosine:.2f} | {row.subspace_alignment:.2f} | {row.chance_alignment:.2f} "
                f"| {row.frobenius_norm / means.frobenius_norm.iloc[-1]:.0%} |"
            )
    lines += ["", "Cosine between the displacements to a checkpoint and to the one before it, over training:", ""]
    for method, label in METHODS.items():
        rows = pd.DataFrame(row for run in results[method]["lock_in"] for row in run)
        cosines = rows.groupby("training").displacement_cosine.mean().dropna()
        lines.append(f"- {label}: {cosines.min():.2f} to {cosines.max():.2f}")
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True, help="directory that `effopd world runs` wrote")
    parser.add_argument("--out", type=Path, required=True, help="directory for the two analyses")
    parser.add_argument("--workers", type=int, default=1, help="number of processes; default: %(default)s")
    options = parser.parse_args()
    runs = {path.name: path for path in sorted(options.runs.iterdir()) if (path / "run.json").exists()}
    seeds = sorted({name.split("-")[1] for name in runs})
    analyze("world:base", runs, options.out / "all", workers=options.workers)
    analyze("world:base", {METHODS[m]: runs[f"{m}-0"] for m in METHODS}, options.out / "seed0", workers=options.workers)
    updates, embeddings = (pd.read_parquet(options.out / "all" / f"{n}.parquet") for n in ("updates", "embeddings"))
    results: dict[str, Any] = {}
    for method in METHODS:
        names = [f"{method}-{seed}" for seed in seeds]
        last = [last_checkpoint(updates, embeddings, n) | accuracies(runs[n]) for n in names]
        results[method] = {
            "last": {key: interval([run[key] for run in last]) for key in COLUMNS},
            "by_seed": last,
            "lock_in": [lock_in(updates, name) for name in names],
        }
    write_json(Path(__file__).parent / "results" / "world_analysis.json", results)
    text = markdown(results, len(seeds))
    write_text(Path(__file__).parent / "results" / "world_analysis.md", text)
    FIGURES.mkdir(parents=True, exist_ok=True)
    for figure in (options.out / "seed0" / "figures").iterdir():
        if figure.suffix != ".pdf":  # for papers, not for pages
            shutil.copy(figure, FIGURES)
    print(text)


if __name__ == "__main__":
    main()
