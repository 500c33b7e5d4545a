"""Tasks of a sweep with settings of their own, the order of cells, limits, completions, and vLLM."""

import gzip
import itertools
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from evaluation.fake_vllm import install
from rich.console import Console
from sweeps.short_runs import counted, make

from effopd import cli, evaluation
from effopd.errors import CheckpointError, ConfigurationError
from effopd.sweeps import SweepSpec, plan_cells, sweep
from effopd.sweeps.estimate import readable, seconds_left
from effopd.sweeps.queue import CellQueue

ONE = {"runs": {"GRPO": "grpo-0"}}
PAPER = ["update_norm", "embedding_replacement", "sliding_window", "top_bottom", "norm_matching"]


def rows(out: Path) -> pd.DataFrame:
    return pd.read_parquet(out / "results.parquet")


def records(out: Path, cell: str) -> list[dict[str, Any]]:
    text = gzip.decompress((out / "completions" / f"{cell}.jsonl.gz").read_bytes()).decode()
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": [{"task": "world", "samples": 3}]}, "tasks, entry 1: got the field 'samples', .*num_samples"),
        ({"tasks": [{"limit": 3}]}, "tasks, entry 1: task is missing"),
        ({"tasks": [{"task": "world", "limit": 0}]}, "tasks: world: limit: got 0"),
        ({"tasks": ["world", {"task": "world", "limit": 3}]}, "tasks: names: got 'world' twice"),
        ({"tasks": [{"task": "world", "name": ""}]}, "tasks, entry 1: name: got '', expected text"),
        ({"tasks": [3]}, "tasks, entry 1: task: got 3, expected text"),
        ({"tasks": [{"task": "world", "chat": False}], "system_prompt": "x"}, "system_prompt: got one without chat"),
        ({"backend": "tgi"}, "backend: got 'tgi', expected one of hf, vllm"),
        ({"engine": {"max_model_len": 9}}, "engine: got .*, expected arguments of vllm.LLM by name, and backend: vllm"),
        ({"backend": "vllm", "engine": 3}, "engine: got 3"),
        ({"completions": "no"}, "completions: got 'no', expected true or false"),
    ],
)
def test_what_is_wrong_with_a_task_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        make(Path(), **changes)


def test_a_task_sets_what_the_specification_does_not(root: Path) -> None:
    spec = make(root, tasks=["world", {"name": "few", "task": "world", "limit": 3, "temperature": 0}], max_new_tokens=5)
    asked = spec.task_settings()
    assert (asked["world"].limit, asked["world"].temperature, asked["world"].max_new_tokens) == (8, 1.0, 5)
    assert (asked["few"].limit, asked["few"].temperature, asked["few"].max_new_tokens) == (3, 0, 5)
    assert spec.to_json()["tasks"] == ["world", {"name": "few", "task": "world", "limit": 3, "temperature": 0}]
    quick = make(root, tasks=[{"task": "world", "limit": 999, "num_samples": 4}]).quick().task_settings()["world"]
    assert (quick.limit, quick.num_samples) == (200, 1)
    keys = {
        cell.key
        for limit in (3, 4)
        for cell in plan_cells(make(root, **ONE, tasks=[{"name": "a", "task": "world", "limit": limit}])).cells
    }
    assert len(keys) == 4  # other settings are other cells


def test_every_task_is_asked_as_it_says_and_its_completions_are_kept(root: Path, tmp_path: Path) -> None:
    greedy = {"name": "greedy", "task": "world:validation", "limit": 5, "temperature": 0, "max_new_tokens": 4}
    spec, out = make(root, **ONE, tasks=["world", greedy]), tmp_path / "out"
    assert sweep(spec, out, workers=1).failed == []
    found = rows(out)
    assert found.groupby("task")["num_problems"].unique().map(list).to_dict() == {"greedy": [5], "world": [8]}
    assert found[found["task"] == "greedy"]["num_tokens"].le(4).all()
    assert set(found["sampled_by"]) == {"hf, float32"} and found["load_seconds"].ge(0).all()
    problems = json.loads((out / "sweep.json").read_text())["problems"]
    for row in found.to_dict("records"):
        kept = records(out, row["cell"])
        assert len(kept) == row["num_problems"]
        assert sum(each["passed"] for each in kept) / len(kept) == pytest.approx(row["mean"])
        task = evaluation.load_task("world" if row["task"] == "world" else "world:validation", limit=len(kept))
        lines = (out / "problems" / f"{problems[row['task']]}.jsonl").read_text().splitlines()
        assert [json.loads(line)["prompt"] for line in lines] == task.prompts
    before = {path.name: path.read_bytes() for path in (out / "completions").iterdir()}
    sweep(spec, tmp_path / "again", workers=1)
    assert {path.name: path.read_bytes() for path in (tmp_path / "again" / "completions").iterdir()} == before


def test_prompts_that_a_tokenizer_cannot_render_are_refused_before_anything_is_done(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"checkpoint-20, task world: .* has no chat template"):
        sweep(make(root, **ONE, chat=True), tmp_path / "out", workers=1)
    assert not (tmp_path / "out").exists()


def test_completions_can_be_switched_off(root: Path, tmp_path: Path) -> None:
    sweep(make(root, **ONE, completions=False), tmp_path / "out", workers=1)
    assert not (tmp_path / "out" / "completions").exists()


def test_problems_that_have_changed_are_refused(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "problems.jsonl"
    path.write_text('{"prompt": "3+4=", "answer": "7"}\n')
    spec = make(root, **ONE, tasks=[str(path)])
    sweep(spec, tmp_path / "out", workers=1)
    path.write_text('{"prompt": "3+5=", "answer": "8"}\n')
    with pytest.raises(CheckpointError, match=r"the problems of .*problems\.jsonl have changed since"):
        sweep(spec, tmp_path / "out", workers=1)


def test_problems_that_have_changed_are_refused_after_a_sweep_of_another_task(root: Path, tmp_path: Path) -> None:
    path, out = tmp_path / "problems.jsonl", tmp_path / "out"
    path.write_text('{"prompt": "3+4=", "answer": "7"}\n{"prompt": "1+1=", "answer": "2"}\n')
    spec, other = make(root, **ONE, tasks=[str(path)]), make(root, **ONE)
    for each in (spec, other, spec, other):
        sweep(each, out, workers=1)
    path.write_text('{"prompt": "3+4=", "answer": "7"}\n')
    with pytest.raises(CheckpointError, match=r"the problems of .*problems\.jsonl have changed since"):
        sweep(spec, out, workers=1)
    assert sweep(other, out, workers=1).failed == []


def test_ends_and_middles_of_the_first_runs_come_first(root: Path) -> None:
    spec = make(root, sweeps=PAPER, seeds=[0, 1], teacher="world:teacher")
    cells = plan_cells(spec).cells
    deciding = [cell for cell in cells if cell.deciding]
    assert {(cell.run, cell.training_seed, cell.seed) for cell in deciding} == {("OPD", 0, 0), ("GRPO", 0, 0)}
    curves = {(use.sweep, use.kind, cell.run) for cell in cells for use in cell.uses}
    assert {(use.sweep, use.kind, cell.run) for cell in deciding for use in cell.uses} == curves
    alphas = [use.value for cell in deciding if cell.run == "OPD" for use in cell.uses if use.kind == "scale"]
    assert {0.0, 0.625, 1.5} <= set(alphas) and len(alphas) < 6
    queue, order, resident = CellQueue(cells), [], None
    while (cell := queue.take(resident)) is not None:
        order.append(cell)
        resident = cell.resident
    assert [cell.deciding for cell in order] == sorted((cell.deciding for cell in cells), reverse=True)
    changes = sum(one.resident != other.resident for one, other in itertools.pairwise(order))
    assert changes < 2 * len({cell.resident for cell in cells})  # at most two loads of each


def test_a_limited_sweep_draws_and_goes_on(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, out, console = make(root, sweeps=PAPER, max_values=4, limit=2), tmp_path / "out", Console(width=200)
    total = len(plan_cells(spec).cells)
    result = sweep(spec, out, workers=1, limit_cells=0, console=console)
    assert (result.num_cells, result.num_left, result.written) == (total, total, [])
    said = capsys.readouterr().out
    assert f"{total} cells: {total} x 2 = {2 * total} completions of world, of at most 12 tokens each" in said
    assert "The first cell will tell" in said
    deciding = sum(cell.deciding for cell in plan_cells(spec).cells)
    result = sweep(spec, out, workers=1, limit_cells=deciding, console=console)
    assert result.num_left == total - deciding
    said = capsys.readouterr().out
    assert "The first cell took" in said and "on 1 worker, as finished cells took" in said
    assert {path.stem for path in result.written if path.suffix == ".svg"} == set(PAPER)
    text = (out / "sweep.md").read_text()
    assert f"{deciding} of {total} evaluations are finished" in text
    for name in PAPER:  # every curve of every method is there
        assert text.count(f"figures/{name}.svg") == 1
    result = sweep(spec, out, workers=1, console=console)
    assert result.num_left == 0 and "About" in capsys.readouterr().out
    assert "are finished" not in (out / "sweep.md").read_text()
    with pytest.raises(ConfigurationError, match="limit_cells: got -1"):
        sweep(spec, out, workers=1, limit_cells=-1)


@pytest.mark.parametrize("number", [1, 2, 5, 9])
def test_a_sweep_that_is_stopped_anywhere_draws_what_it_has(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    spec, out = make(root, sweeps=PAPER, limit=2), tmp_path / "out"
    counted(monkeypatch, stop_after=number)
    with pytest.raises(KeyboardInterrupt):
        sweep(spec, out, workers=1)
    assert f"{number} of" in (out / "sweep.md").read_text()
    assert list((out / "figures").glob("*.svg"))


def test_the_time_left_counts_loads_apart(root: Path) -> None:
    cells = plan_cells(make(root, sweeps=["norm_matching"], **ONE)).cells
    loads = len({(cell.resident, cell.deciding) for cell in cells})
    done = [
        {"cell": name, "task": "world", "seconds": 2.0 + load, "load_seconds": load}
        for name, load in (("a", 10.0), ("b", 0.0), ("c", 0.0))
    ]
    assert seconds_left(cells, done, 1) == pytest.approx(2 * len(cells) + 10 * loads)
    assert seconds_left(cells, [*done, done[0]], 2) == pytest.approx(len(cells) + 5 * loads)
    assert seconds_left(cells, [], 1) is None
    assert [readable(seconds) for seconds in (12.34, 240, 9000)] == ["12.3 seconds", "4.0 minutes", "2.5 hours"]


def answers(spec: SweepSpec, out: Path) -> dict[tuple[Any, ...], list[tuple[str, float]]]:
    assert sweep(spec, out, workers=1).failed == []
    return {
        (row["kind"], row["value"], row["checkpoint"]): [
            (each["completion"], each["kl"]) for each in records(out, row["cell"])
        ]
        for row in rows(out).to_dict("records")
    }


@pytest.mark.parametrize("takes_weights", [True, False])
def test_an_engine_samples_what_the_model_in_memory_would(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, takes_weights: bool
) -> None:
    """Greedily, over interventions and checkpoints, with the KL measured by the model in memory."""
    changes = ONE | {"sweeps": ["norm_matching"], "teacher": "world:teacher", "temperature": 0, "max_values": 3}
    expected = answers(make(root, **changes), tmp_path / "hf")
    engine = install(monkeypatch, takes_weights=takes_weights)
    spec = make(root, **changes, backend="vllm", engine={"max_model_len": 64})
    if takes_weights:
        found = answers(spec, tmp_path / "vllm")
    else:
        with pytest.warns(UserWarning, match="does not take weights in place"):
            found = answers(spec, tmp_path / "vllm")
    assert found.keys() == expected.keys()
    for key, each in expected.items():
        assert [text for text, _ in found[key]] == [text for text, _ in each], key
        assert [kl for _, kl in found[key]] == pytest.approx([kl for _, kl in each], rel=1e-4, abs=1e-6)
    table = rows(tmp_path / "vllm")
    assert set(table["sampled_by"]) == {f"vllm, float32, {'in place' if takes_weights else 'reloaded'}"}
    assert len(engine.made) == (1 if takes_weights else 1 + table["cell"].nunique())
    settings = {"max_model_len": 64, "gpu_memory_utilization": 0.5, "dtype": "float32"}
    assert all(settings.items() <= each.items() for each in engine.made)
    with pytest.raises(CheckpointError, match=r"backend 'vllm' \(now 'hf'\)"):
        sweep(make(root, **changes), tmp_path / "vllm", workers=1)


def test_the_command_says_what_is_left(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text("base: world:base\nruns: {a: grpo-0}\ntasks: [world]\nlimit: 2\nsweeps: [embedding_replacement]\n")
    command = ["sweep", str(spec), "--root", str(root), "--out", str(tmp_path / "out"), "--workers", "1"]
    assert cli.main([*command, "--limit-cells", "2"]) == 0
    assert "3 cells, of which 1 are left for the same command" in capsys.readouterr().out
    assert cli.main(command) == 0
    assert "are left" not in capsys.readouterr().out
