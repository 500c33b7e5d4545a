"""The directory of a sweep: continued, extended, refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from safetensors.torch import load_file, save_file
from sweeps.short_runs import PAPER, counted, make, rows, write_checkpoint

from effopd import evaluation
from effopd.errors import CheckpointError, DataError
from effopd.files import files_digest
from effopd.sweeps import SweepSpec, plan_cells, sweep
from effopd.sweeps.worker import Worker
from effopd.world import base_dir, model_path


def test_two_sweeps_do_not_write_in_one_directory(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, out = make(root, runs={"a": "grpo-0"}), tmp_path / "out"
    real = evaluation.evaluate
    refused = []

    def evaluate(*arguments: Any, **options: Any) -> Any:
        with pytest.raises(DataError, match="another command is writing there"):
            sweep(spec, out, workers=1)
        refused.append(1)
        return real(*arguments, **options)

    monkeypatch.setattr(evaluation, "evaluate", evaluate)
    assert sweep(spec, out, workers=1).failed == []
    assert len(refused) == len(rows(out)) == 2


def test_a_second_start_does_nothing_more(whole: tuple[SweepSpec, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    spec, out = whole
    before, calls = rows(out), counted(monkeypatch)
    result = sweep(spec, out, workers=1)
    assert calls == [] and result.failed == []
    pd.testing.assert_frame_equal(rows(out), before)


def test_an_interrupted_sweep_is_continued(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, out = make(root), tmp_path / "out"
    with monkeypatch.context() as patch:
        counted(patch, stop_after=2)
        with pytest.raises(KeyboardInterrupt):
            sweep(spec, out, workers=1)
    assert len(rows(out)) == 2
    calls = counted(monkeypatch)
    sweep(spec, out, workers=1)
    assert len(calls) == 4 and len(rows(out)) == 6


def test_results_that_were_not_gathered_yet_count(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A killed sweep leaves rows in files of their own, and may have gathered some of these rows already."""
    spec, out = make(root), tmp_path / "out"
    sweep(spec, out, workers=1)
    before = rows(out)
    before.head(1).to_parquet(out / "cells" / "one.parquet")
    before.tail(5).to_parquet(out / "results.parquet")
    (out / "failed.jsonl").write_text('{"cell": "one of an earlier start"}\n')
    calls = counted(monkeypatch)
    sweep(spec, out, workers=1)
    assert calls == []
    pd.testing.assert_frame_equal(rows(out), before)
    assert not (out / "failed.jsonl").exists()


@pytest.mark.parametrize(
    ("changes", "what"),
    [({"limit": 9}, "limit"), ({"temperature": 0.5}, "temperature"), ({"runs": {"GRPO": "grpo-0"}}, "runs")],
)
def test_another_sweep_in_the_same_directory_is_refused(
    root: Path, tmp_path: Path, changes: dict[str, Any], what: str
) -> None:
    spec, out = make(root), tmp_path / "out"
    sweep(spec, out, workers=1)
    with pytest.raises(CheckpointError, match=f"holds a sweep with other settings: {what}"):
        sweep(make(root, **changes), out, workers=1)
    with pytest.raises(CheckpointError, match="not empty and holds no sweep"):
        sweep(spec, root, workers=1)


def test_a_directory_that_an_earlier_version_has_left_is_continued(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files as version 0.1.0 wrote them before it was killed: a cell gathered, another one not."""
    spec, out = make(root, runs={"GRPO": "grpo-0"}), tmp_path / "out"
    checkpoints = [root / "grpo-0" / f"checkpoint-{step}" for step in (1, 10, 20)]
    scale = {"preset": "intervention", "name": "halves", "runs": [], "kind": "scale", "vary": "alpha"}
    plan = {
        "spec": {
            "base": "world:base",
            "runs": {"GRPO": ["grpo-0"]},
            "sweeps": [scale | {"values": [0, 0.5], "fields": None, "over_training": False}],
            "tasks": ["world"],
            "seeds": [0],
            "teacher": None,
            "limit": 8,
            "num_samples": 1,
            "temperature": 1.0,
            "batch_size": 256,
            "max_checkpoints": None,
            "max_values": None,
        },
        "base": str(base_dir()),
        "runs": {
            "GRPO": [
                [
                    {"step": step, "directory": str(path), "files": files_digest([path / "model.safetensors"])}
                    for step, path in zip((1, 10, 20), checkpoints, strict=True)
                ]
            ]
        },
        "versions": {"effopd": "0.1.0"},
    }
    sweep(spec, tmp_path / "whole", workers=1)
    whole = rows(tmp_path / "whole")
    assert whole["cell"].to_list() == ["e7212a0958ae471f", "02fbbaf88e026684"]
    (out / "cells").mkdir(parents=True)
    (out / "sweep.json").write_text(json.dumps(plan, indent=2) + "\n")
    whole.head(1).to_parquet(out / "results.parquet")
    calls = counted(monkeypatch)
    sweep(spec, out, workers=1)
    assert len(calls) == 1
    whole.head(0).to_parquet(out / "results.parquet")
    for number in (0, 1):
        whole.iloc[[number]].to_parquet(out / "cells" / f"{whole['cell'][number]}.parquet")
    sweep(spec, out, workers=1)
    assert len(calls) == 1
    pd.testing.assert_frame_equal(rows(out), whole)


def test_a_sweep_may_want_more_and_other_cells(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = ({"preset": "intervention", "name": name, "kind": "scale", "vary": "alpha"} for name in ("a", "b"))
    spec, out = make(root, runs={"OPD": "opd-0"}, sweeps=[one | {"values": [0.5, 1]}]), tmp_path / "out"
    sweep(spec, out, workers=1)
    before, calls = rows(out), counted(monkeypatch)
    changed = {"runs": {"OPD": "opd-0", "GRPO": "grpo-0"}, "sweeps": [other | {"values": [0.5, 2]}], "seeds": [0, 1]}
    sweep(make(root, **changed), out, workers=1)
    assert len(calls) == 7  # alpha, run and seed, without the one that was there
    found = rows(out)
    assert set(found["sweep"]) == {"b"} and len(found) == 8
    old, taken_over = (frame[(frame["run"] == "OPD") & (frame["value"] == 0.5)] for frame in (before, found))
    assert old["mean"].item() == taken_over[taken_over["seed"] == 0]["mean"].item()
    sweep(make(root, runs=changed["runs"], sweeps=spec.to_json()["sweeps"]), out, workers=1)
    assert len(calls) == 8  # alpha 1 of the new run; all others are known
    assert rows(out)[lambda frame: frame["run"] == "OPD"].reset_index(drop=True).equals(before)
    assert (out / "unused.parquet").exists()
    both = [*spec.to_json()["sweeps"], other | {"values": [0.5, 2]}]
    sweep(make(root, runs=changed["runs"], sweeps=both, seeds=[0, 1]), out, workers=1)
    assert not (out / "unused.parquet").exists()  # all is wanted again


def test_cells_do_not_depend_on_how_paths_are_written(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root.parent)
    specs = [make(where, sweeps=PAPER, max_checkpoints=2, max_values=2) for where in (root, Path(root.name))]
    absolute, relative = (plan_cells(spec).cells for spec in specs)
    assert [cell.key for cell in relative] == [cell.key for cell in absolute]
    assert all(cell.directory.is_absolute() for cell in relative)


@pytest.mark.parametrize("model", ["base", "teacher"])
def test_another_base_or_teacher_in_the_same_place_is_noticed(root: Path, tmp_path: Path, model: str) -> None:
    place = shutil.copytree(model_path("world:base"), tmp_path / model)
    spec = make(root, **({"teacher": "world:teacher"} | {model: str(place)}))
    sweep(spec, tmp_path / "out", workers=1)
    changed = {name: 2 * tensor for name, tensor in load_file(place / "model.safetensors").items()}
    save_file(changed, place / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=f"other settings: {model}, whose files have changed since"):
        sweep(spec, tmp_path / "out", workers=1)


def test_training_seeds_may_be_added(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    sweep(make(root, runs={"OPD": {"seeds": ["opd-0"]}}), out, workers=1)
    before, calls = rows(out), counted(monkeypatch)
    sweep(make(root, runs={"OPD": {"seeds": ["opd-0", "opd-1"]}}), out, workers=1)
    assert len(calls) == len(rows(out)) - len(before) > 0
    assert rows(out)[lambda frame: frame["training_seed"] == 0].reset_index(drop=True).equals(before)
    with pytest.raises(CheckpointError, match="runs, as checkpoints of OPD"):
        sweep(make(root, runs={"OPD": {"seeds": ["opd-1", "opd-0"]}}), out, workers=1)


def test_a_failure_is_kept_until_its_cell_is_tried_again(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, out = make(root, runs={"OPD": "opd-0"}), tmp_path / "out"
    with monkeypatch.context() as patched:
        patched.setattr(Worker, "run", lambda *args: (_ for _ in ()).throw(DataError("broken")))
        result = sweep(spec, out, workers=1)
    assert result.failed
    before = (out / "failed.jsonl").read_bytes()
    sweep(spec, out, workers=1, limit_cells=0)
    assert (out / "failed.jsonl").read_bytes() == before
    assert not sweep(spec, out, workers=1).failed
    assert not (out / "failed.jsonl").exists()


def test_a_checkpoint_that_has_changed_since_is_noticed(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "runs" / "a" / "checkpoint-1", 0.5, 0)
    spec = make(tmp_path / "runs", runs={"a": "a"})
    sweep(spec, tmp_path / "out", workers=1)
    shutil.rmtree(tmp_path / "runs" / "a" / "checkpoint-1")
    write_checkpoint(tmp_path / "runs" / "a" / "checkpoint-1", 0.6, 0)
    with pytest.raises(
        CheckpointError, match="other settings: runs, as checkpoints of a or their files have changed since"
    ):
        sweep(spec, tmp_path / "out", workers=1)
