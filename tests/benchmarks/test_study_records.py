"""The records of a study, packed and unpacked, give the verdicts that the study itself gives."""

import json
from pathlib import Path

import pandas as pd
import pytest
from study.made_up import SEEDS, TARGET, made_up
from study_records import pack, unpack

from effopd.experiments.arguments import world_run_arguments
from effopd.files import write_json, write_json_lines
from effopd.study.records import Records, read_records
from effopd.study.results import judge
from effopd.training.run import train

KEYS = sorted(made_up(True).planned)


def write_study(root: Path) -> None:
    """The files that `effopd study` leaves of one world, with made-up contents."""
    records, world = made_up(True), root / "w"
    for name in ("updates", "alignments", "embeddings"):
        table = getattr(records, name)
        runs = [f"{role}-{seed}" for role, seed in zip(table["role"], table["seed"], strict=True)]
        (world / "analysis").mkdir(parents=True, exist_ok=True)
        table.drop(columns=["role", "seed"]).assign(run=runs).to_parquet(world / "analysis" / f"{name}.parquet")
    sweep = records.sweep.assign(run=records.sweep["role"], training_seed=records.sweep["seed"] - SEEDS[0])
    sweep = sweep.drop(columns=["role", "seed"]).assign(cell=[f"cell-{row}" for row in range(len(sweep))])
    (world / "sweep").mkdir()
    sweep.to_parquet(world / "sweep" / "results.parquet")
    write_json(world / "sweep" / "sweep.json", {"num_cells": len(sweep), "base": "/somewhere/base"})
    for role, seed in KEYS:
        run = world / "runs" / f"{role}-{seed}"
        write_json(run / "run.json", records.finished.get((role, seed), {"steps": 3}))
        unmeasured = {"step": 0, "accuracy": None, "rollouts": 0}
        write_json_lines(run / "metrics.jsonl", [unmeasured, *records.metrics[role, seed]])
        (run / "model.safetensors").write_bytes(bytes(1_000_000))
    for seed, view in records.linearized.items():
        write_json(world / "linearized" / str(seed) / "linearized.json", view)
    write_json(world / "finished.json", {"runs": [f"{role}-{seed}" for role, seed in KEYS]})
    write_json(
        root / "study.json", {"plan": "short", "methods": {"opd": {"swept": "all"}, "opd-best": {"swept": None}}}
    )
    for name in ("opd-1", "opd-best-1", "opd-best-2"):
        write_json_lines(root / "unfinished" / "runs" / name / "metrics.jsonl", [{"step": 1, "accuracy": 0.5}])
    for name in ("opd-1", "opd-best-1"):
        write_json(root / "unfinished" / "runs" / name / "run.json", {"steps": 1})


def read(root: Path) -> Records:
    world = root / "w"
    return read_records(
        "w",
        {(role, seed): world / "runs" / f"{role}-{seed}" for role, seed in KEYS},
        labels={role: role for role, _ in KEYS},
        analysis=world / "analysis",
        sweep=world / "sweep",
        target=TARGET,
        linearized={seed: world / "linearized" / str(seed) for seed in SEEDS},
    )


def test_what_is_unpacked_is_judged_alike(tmp_path: Path) -> None:
    write_study(tmp_path / "study")
    assert pack(tmp_path / "study", tmp_path / "records") == {"unfinished": 1, "w": len(KEYS)}
    assert "somewhere" not in (tmp_path / "records" / "w" / "sweep" / "sweep.json").read_text()
    assert sum(path.stat().st_size for path in (tmp_path / "records").rglob("*") if path.is_file()) < 1_000_000
    assert unpack(tmp_path / "records", tmp_path / "again") == {"unfinished": 1, "w": len(KEYS)}
    assert json.loads((tmp_path / "again" / "study.json").read_text())["plan"] == "short"
    before, after = (judge([read(tmp_path / name)]) for name in ("study", "again"))
    assert [claim["verdict"] for claim in before] == [claim["verdict"] for claim in after]
    assert sum(claim["verdict"] == "supported" for claim in before) > 40
    for one, other in zip(before, after, strict=True):
        assert one["notes"] == other["notes"]
        assert one["estimate"] == (
            None if other["estimate"] is None else pytest.approx(other["estimate"], rel=1e-5, abs=1e-6)
        )


def test_of_an_unfinished_world_what_needs_no_weights_is_kept_as_finished(tmp_path: Path) -> None:
    write_study(tmp_path / "study")
    pack(tmp_path / "study", tmp_path / "records")
    unpack(tmp_path / "records", tmp_path / "again")
    runs = tmp_path / "again" / "unfinished" / "runs"
    assert [path.name for path in runs.iterdir()] == ["opd-best-1"]  # neither what is analysed nor what is unfinished
    assert not (tmp_path / "again" / "unfinished" / "finished.json").exists()
    arguments, config = world_run_arguments(runs / "opd-best-1", acceleration="none", learning_rate=1e-3, seed=1)
    assert [row["accuracy"] for row in train(arguments, config)] == [0.5]  # it is used, and not trained again


def test_packing_again_gives_the_same_bytes(tmp_path: Path) -> None:
    write_study(tmp_path / "study")
    for name in ("one", "other"):
        pack(tmp_path / "study", tmp_path / name)
    files = [path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file()]
    assert all((tmp_path / "one" / file).read_bytes() == (tmp_path / "other" / file).read_bytes() for file in files)
    assert pd.read_parquet(tmp_path / "one" / "w" / "sweep" / "results.parquet")["value"].dtype == "float64"
