"""A made-up directory of a sweep: what goes in is known."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

SWEEPS: list[dict[str, Any]] = [
    {"preset": "update_norm", "name": "update_norm"},
    {"preset": "embedding_replacement", "name": "embedding_replacement"},
    {"preset": "sliding_window", "name": "sliding_window", "modules": ["mlp", "attention"]},
    {"preset": "top_bottom", "name": "top_bottom", "norm_like": None, "other": "base"},
    {"preset": "norm_matching", "name": "norm_matching", "early": 0.1},
    {"preset": "intervention", "name": "mine", "kind": "scale", "vary": "alpha"},
]
CURVES: dict[str, dict[str, tuple[float, ...]]] = {
    "update_norm": {"scale": (0, 0.5, 1), "checkpoint": (10, 20)},
    "embedding_replacement": {"base": (0,), "replace-embeddings": (0,), "trained": (0,)},
    "sliding_window": {"mlp": (0, 1, 2), "attention": (0, 1, 2), "base": (0,), "trained": (0,)},
    "top_bottom": {"top": (1, 10, 100), "bottom": (1, 10, 100), "base": (0,), "trained": (0,)},
    "norm_matching": {"checkpoint": (10, 20), "norm-match": (10, 20), "beta": (0, 0.5, 1)},
    "mine": {"scale": (0.1, 0.2)},
}
RUNS = {"OPD": 3, "GRPO $x$": 1}


def write_sweep(
    directory: Path, *, kl: bool = True, tasks: tuple[str, ...] = ("world",), error: float | None = 1e-5
) -> Path:
    """A sweep of two methods, one with three seeds of training. Updates have an error that grows with the value."""
    rng = np.random.default_rng(0)
    rows = []
    for sweep, curves in CURVES.items():
        for kind, values in curves.items():
            for value in values:
                for run, seeds in RUNS.items():
                    for training_seed in range(seeds):
                        for task in tasks:
                            for seed in (0, 1):
                                place = (sweep, run, kind, value, training_seed, task, seed)
                                rows.append(a_row(*place, rng.uniform(0.3, 0.9), kl and sweep == "norm_matching"))
    directory.mkdir(parents=True)
    results = pd.DataFrame(rows)
    if error is not None:  # sweeps of earlier versions did not measure it
        results["relative_error"] = error * (1 + results["value"])
        results["changed_fraction"], results["dtype"] = 0.25, "float32"
    results.to_parquet(directory / "results.parquet")
    runs = {run: [[] for _ in range(seeds)] for run, seeds in RUNS.items()}
    (directory / "sweep.json").write_text(json.dumps({"spec": {"sweeps": SWEEPS}, "runs": runs}))
    return directory


def a_row(
    sweep: str, run: str, kind: str, value: float, training_seed: int, task: str, seed: int, mean: float, kl: bool
) -> dict[str, Any]:
    norm = value + 0.1 * training_seed
    return {
        **{"cell": "x", "sweep": sweep, "run": run, "training_seed": training_seed, "checkpoint": 0, "step": 10},
        **{"kind": kind, "value": value, "x": norm if sweep == "update_norm" else value, "task": task, "seed": seed},
        **{"num_problems": 50, "mean": mean, "standard_error": 0.05, "low": mean - 0.1, "high": mean + 0.1},
        **{"kl_per_token": 0.2 if kl else np.nan, "kl_low": 0.1 if kl else np.nan, "kl_high": 0.3 if kl else np.nan},
        **{"kl_per_sequence": 1.0, "truncation_rate": 0.0, "update_norm": norm, "seconds": 1.0, "node": "n/1"},
        **{"layer_norm": 1.0 if kind in ("mlp", "attention") else np.nan, "attempt": 1},
    }
