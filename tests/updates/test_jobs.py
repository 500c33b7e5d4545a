import errno
import json
import multiprocessing
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from updates.runs_on_disk import MATRICES, matrix, random_tensors, write, write_run

from effopd.errors import CheckpointError, ConfigurationError, DataError
from effopd.files import files_digest
from effopd.updates import compare
from effopd.updates.jobs import PROGRESS, measure_runs, save_tensors, vectors_file


class Counter:
    def __init__(self, stop_after: int | None = None) -> None:
        self.done, self.stop_after = 0, stop_after

    def __call__(self, cost: float) -> None:
        self.done += 1
        if self.done == self.stop_after:
            raise KeyboardInterrupt


def by_key(records: list[dict[str, Any]]) -> dict[tuple[str, int, str], dict[str, Any]]:
    return {(record["run"], record["checkpoint"], record["parameter"]): record for record in records}


def test_every_checkpoint_gets_its_records_and_vectors(tmp_path: Path) -> None:
    base, run, states = write_run(tmp_path, 3)
    records = measure_runs(base, {"a": run, "b": run / "checkpoint-30"}, tmp_path / "out")
    steps = {(record["run"], record["checkpoint"]): record["step"] for record in records}
    assert steps == {("a", 0): 10, ("a", 1): 20, ("a", 2): 30, ("b", 0): 30}
    final = {record.parameter: asdict(record) for record in compare(base, run / "checkpoint-30")}
    for record in records:
        if record["step"] == 30:
            changed = {"run", "checkpoint", "step", "displacement_norm", "displacement_cosine"}
            kept = {key: value for key, value in record.items() if key not in changed}
            assert kept == {key: value for key, value in final[record["parameter"]].items() if key not in changed}
    first = by_key(records)["a", 0, "lm_head.weight"]
    assert (first["displacement_norm"], first["displacement_cosine"]) == (first["frobenius_norm"], None)
    for name in MATRICES:
        steps = [(matrix(states[i], name) - matrix(states[i - 1], name)).flatten() for i in (1, 2, 3)]
        for index in (1, 2):
            record = by_key(records)["a", index, name]
            cosine = torch.nn.functional.cosine_similarity(steps[index], steps[index - 1], dim=0)
            assert record["displacement_norm"] == pytest.approx(float(steps[index].norm()))
            assert record["displacement_cosine"] == pytest.approx(float(cosine))
        saved = load_file(vectors_file(tmp_path / "out", "a", 1, name))
        update = matrix(states[2], name) - matrix(states[0], name)
        assert torch.linalg.matrix_norm(update, 2) == pytest.approx(float(saved["singular_values"][0]))
        product = update @ saved["right"].double()
        scaled = saved["left"].double() * saved["singular_values"][: product.shape[1]]
        torch.testing.assert_close(product, scaled, rtol=0, atol=1e-5)


@pytest.mark.parametrize("workers", [1, 2])
def test_an_interrupted_analysis_goes_on_where_it_stopped(tmp_path: Path, workers: int) -> None:
    base, run, _ = write_run(tmp_path, 2)
    whole = measure_runs(base, {"run": run}, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        measure_runs(base, {"run": run}, tmp_path / "out", workers=workers, on_job=Counter(stop_after=5))
    counter, starts = Counter(), []
    options = {"on_job": counter, "on_start": lambda *start: starts.append(start)}
    again = measure_runs(base, {"run": run}, tmp_path / "out", workers=workers, **options)
    assert by_key(again) == by_key(whole)
    assert counter.done == len(whole) - 5
    assert starts[0][:2] == (5, len(whole))


def test_a_directory_that_an_earlier_version_has_left_is_continued(tmp_path: Path) -> None:
    """Files as version 0.1.0 wrote them before it was interrupted, in the sixth job."""
    base, run, _ = write_run(tmp_path, 1)
    whole, out = measure_runs(base, {"run": run}, tmp_path / "whole"), tmp_path / "out"
    checkpoint = run / "checkpoint-10"
    digest = files_digest([checkpoint / "model.safetensors"])
    plan = {
        "base": str(base),
        "runs": [{"name": "run", "checkpoints": [{"step": 10, "directory": str(checkpoint), "files": digest}]}],
        "settings": {"ignore": [], "precision": "float64"},
        "ignored": [],
        "unknown": [],
        "versions": {"effopd": "0.1.0", "torch": "2.11.0"},
    }
    shutil.copytree(tmp_path / "whole" / "subspaces", out / "subspaces")
    (out / "analysis.json").write_text(json.dumps(plan, indent=2) + "\n")
    lines = (tmp_path / "whole" / "progress.jsonl").read_text().splitlines(keepends=True)
    (out / "progress.jsonl").write_text("".join(lines[:5]) + '{"run": "run", "ch')
    counter = Counter()
    assert measure_runs(base, {"run": run}, out, on_job=counter) == whole
    assert counter.done == len(whole) - 5
    assert len((out / "progress.jsonl").read_text().splitlines()) == len(whole)


def test_a_killed_worker_costs_only_what_it_was_doing(tmp_path: Path) -> None:
    base, run, _ = write_run(tmp_path, 2)

    def kill(cost: float) -> None:
        for process in multiprocessing.active_children():
            process.kill()

    with pytest.raises(CheckpointError, match="fewer --workers"):
        measure_runs(base, {"run": run}, tmp_path / "out", workers=2, on_job=kill)
    counter = Counter()
    again = measure_runs(base, {"run": run}, tmp_path / "out", on_job=counter)
    assert by_key(again) == by_key(measure_runs(base, {"run": run}, tmp_path / "whole"))
    assert 0 < counter.done < len(again)


def test_a_torn_last_line_costs_one_matrix_once(tmp_path: Path) -> None:
    base, run, _ = write_run(tmp_path, 1)
    whole = measure_runs(base, {"run": run}, tmp_path / "out")
    progress = tmp_path / "out" / PROGRESS
    lines = progress.read_text().splitlines(keepends=True)
    progress.write_text("".join(lines[:4]) + lines[4][:50])
    for left in (len(lines) - 4, 0):
        counter = Counter()
        assert measure_runs(base, {"run": run}, tmp_path / "out", on_job=counter) == whole
        assert counter.done == left


def test_matrices_whose_vectors_are_gone_or_damaged_are_measured_again(tmp_path: Path) -> None:
    base, run, _ = write_run(tmp_path, 1)
    whole = measure_runs(base, {"run": run}, tmp_path / "out")
    gone, damaged, cut = (vectors_file(tmp_path / "out", "run", 0, name) for name in MATRICES[:3])
    contents = [path.read_bytes() for path in (gone, damaged, cut)]
    gone.unlink()
    damaged.write_bytes(b"half of a file")
    cut.write_bytes(contents[2][:-8])
    counter = Counter()
    assert measure_runs(base, {"run": run}, tmp_path / "out", on_job=counter) == whole
    assert counter.done == 3
    assert [path.read_bytes() for path in (gone, damaged, cut)] == contents


@pytest.mark.parametrize(
    ("reason", "code"), [("No space left on device (os error 28)", errno.ENOSPC), ("something else", None)]
)
def test_what_cannot_be_written_is_an_os_error_that_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: str, code: int | None
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise SafetensorError(f"Error while serializing: I/O error: {reason} at path x")

    monkeypatch.setattr("effopd.checkpoints.writer.save_file", fail)
    with pytest.raises(OSError, match=r"x\.safetensors") as caught:
        save_tensors({"x": torch.ones(3)}, tmp_path / "x.safetensors")
    assert caught.value.errno == code


def test_a_run_that_has_grown_and_a_further_run_are_added(tmp_path: Path) -> None:
    base, run, states = write_run(tmp_path, 2)
    measure_runs(base, {"run": run}, tmp_path / "out")
    write(run / "checkpoint-30", random_tensors(7))
    counter = Counter()
    records = measure_runs(base, {"run": run, "other": run / "checkpoint-10"}, tmp_path / "out", on_job=counter)
    assert counter.done == 2 * len(records) / 4
    del states


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("base", "base '.*/base' .now '.*/base2'"),
        ("base's files", "base, whose files have changed since"),
        ("settings", "precision 'float64' .now 'float32'"),
        ("files", "run run, of which checkpoints or their files have changed"),
        ("fewer runs", "run run, which is not among the runs now"),
    ],
)
def test_another_analysis_in_the_same_place_is_refused(tmp_path: Path, change: str, named: str) -> None:
    base, run, _ = write_run(tmp_path, 2)
    measure_runs(base, {"run": run}, tmp_path / "out")
    options: dict[str, Any] = {}
    runs = {"run": run}
    if change == "base":
        base = write(tmp_path / "base2", random_tensors(9))
    elif change == "base's files":
        shutil.rmtree(base)
        write(base, random_tensors(9))
    elif change == "settings":
        options["precision"] = "float32"
    elif change == "files":
        shutil.rmtree(run / "checkpoint-20")
        write(run / "checkpoint-20", random_tensors(9))
    else:
        runs = {"another": run}
    with pytest.raises(CheckpointError, match=f"an analysis with other settings: {named}.*another --out"):
        measure_runs(base, runs, tmp_path / "out", **options)


def test_a_directory_with_other_things_in_it_is_left_alone(tmp_path: Path) -> None:
    base, run, _ = write_run(tmp_path, 1)
    with pytest.raises(CheckpointError, match="not empty"):
        measure_runs(base, {"run": run}, run)
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="is a file"):
        measure_runs(base, {"run": run}, tmp_path / "file")


def test_two_analyses_at_a_time_in_one_place_are_refused(tmp_path: Path) -> None:
    base, run, _ = write_run(tmp_path, 1)

    def another(cost: float) -> None:
        with pytest.raises(DataError, match="another command is writing there"):
            measure_runs(base, {"a": run}, tmp_path / "out")

    assert measure_runs(base, {"a": run}, tmp_path / "out", on_job=another)


def test_patterns_that_match_nothing_or_everything_are_refused(tmp_path: Path) -> None:
    base, run, _ = write_run(tmp_path, 1)
    for pattern, message in (("self_atn", r"no tensor's name matches 'self_atn'; .*lm_head"), (".", "nothing to anal")):
        with pytest.raises(ConfigurationError, match=message):
            measure_runs(base, {"run": run}, tmp_path / "out", ignore=["lm_head", pattern])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["", "..", "a/b", ".hidden", "a\nb", "<b>", "a\tb", "\udcff", 99 * "é" + "abc"])
def test_names_that_cannot_name_a_directory_are_refused(tmp_path: Path, name: str) -> None:
    base, run, _ = write_run(tmp_path, 1)
    with pytest.raises(ConfigurationError, match=r"run name.*at most 200 bytes.*none of /"):
        measure_runs(base, {name: run}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_no_run_and_no_worker_are_refused(tmp_path: Path) -> None:
    base, run, _ = write_run(tmp_path, 1)
    with pytest.raises(ConfigurationError, match="no run"):
        measure_runs(base, {}, tmp_path / "out")
    with pytest.raises(ConfigurationError, match="workers: got 0"):
        measure_runs(base, {"run": run}, tmp_path / "out", workers=0)


@pytest.mark.parametrize("device", ["nonsense", "cuda:99"])
def test_devices_that_are_not_there_are_refused(tmp_path: Path, device: str) -> None:
    base, run, _ = write_run(tmp_path, 1)
    with pytest.raises(ConfigurationError, match=device):
        measure_runs(base, {"run": run}, tmp_path / "out", device=device)
    assert not (tmp_path / "out").exists()


def test_a_diverged_checkpoint_is_named(tmp_path: Path) -> None:
    base = write(tmp_path / "base", random_tensors(0))
    tensors = random_tensors(1)
    tensors["model.layers.0.mlp.up_proj.weight"][3, 3] = torch.nan
    with pytest.raises(DataError, match=r"mlp\.up_proj.*diverge"):
        measure_runs(base, {"run": write(tmp_path / "bad", tensors)}, tmp_path / "out")


def test_parameter_names_cannot_leave_the_directory() -> None:
    path = vectors_file(Path("out"), "run", 0, "../../etc/x[1]")
    assert path.parent == Path("out/subspaces/run/checkpoint-0")
