"""The demo, on the embedded world but smaller: results, reuse, continuing after an interruption."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from effopd.errors import ConfigurationError
from effopd.experiments import demo
from effopd.experiments.cost_to_target import to_target
from effopd.files import read_json_lines

RUNS = ("vanilla-lr0.001-seed0", "effopd-lr0.001-seed0")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "QUICK", demo.DemoSettings((1e-3,), 0.7, 32, 32, max_steps=6, save_steps=2))


def rows_of(out: Path, name: str) -> list[dict[str, Any]]:
    return read_json_lines(out / "runs" / name / "metrics.jsonl")


def without_times(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if "seconds" not in key} for row in rows]


def test_results_and_reuse(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "demo"
    summary = demo.run_demo(out, quick=True)

    assert json.loads((out / "summary.json").read_text()) == summary
    assert list(summary) == ["target_accuracy", "runs", "versions", "command"]
    assert summary["target_accuracy"] == 0.7
    assert summary["command"] == f"effopd demo --out {out} --seeds 1 --quick"
    assert [run["name"] for run in summary["runs"]] == [*RUNS]
    for run, acceleration in zip(summary["runs"], ("none", "paper"), strict=True):
        rows = rows_of(out, run["name"])
        identity = {"acceleration": acceleration, "learning_rate": 1e-3, "seed": 0}
        assert run == {"name": run["name"]} | identity | {key: to_target(rows, 0.7)[key] for key in demo.SUMMARY_KEYS}
        assert run["steps_to_target"] == len(rows)  # the target stopped it
        assert run["rollouts_to_target"] == 32 * len(rows) + run["validation_rollouts"]
        assert not [*(out / "runs" / run["name"]).glob("checkpoint-*")]
        assert (out / "runs" / run["name"] / "model.safetensors").exists()
    vanilla, effopd = summary["runs"]
    assert vanilla["validation_rollouts"] == 0 < effopd["validation_rollouts"]
    assert (out / "accuracy.svg").exists()
    assert (out / "accuracy.png").exists()
    printed = capsys.readouterr()
    assert "Cost of reaching an accuracy of 0.7" in printed.out
    assert str(out / "summary.json") in printed.out
    assert printed.err == ""

    written = {path: path.stat().st_mtime_ns for path in (out / "runs").rglob("*")}
    assert demo.run_demo(out, quick=True) == summary
    assert {path: path.stat().st_mtime_ns for path in (out / "runs").rglob("*")} == written
    assert capsys.readouterr().out.count("is finished") == 2

    with pytest.raises(ConfigurationError, match="other settings"):
        demo._do_run(out, "none", 1e-3, 0, demo.QUICK._replace(prompts_per_step=64), demo.RunDisplay())


def test_medians_of_an_even_number_of_seeds_are_not_rounded() -> None:
    runs = [
        {
            "learning_rate": 1e-3,
            "acceleration": acceleration,
            "seed": seed,
            "validation_rollouts": 25 * seed,
            "steps_to_target": 16 + seed,
            "rollouts_to_target": 100_000 + 25 * seed,
            "seconds_to_target": 7.3,
        }
        for acceleration in demo.LABELS
        for seed in range(2)
    ]
    console = Console(file=io.StringIO(), width=120)
    console.print(demo._table(runs, demo.QUICK))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    for number in ("16.5 ", "100,012.5 ", " 12.5 ", " 7 "):
        assert text.count(number) == 2


def test_an_interrupted_demo_continues_to_the_same_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "QUICK", demo.QUICK._replace(target_accuracy=1.0, max_steps=4))
    whole = demo.run_demo(tmp_path / "whole", quick=True)
    assert all(run["rollouts_to_target"] is None for run in whole["runs"])

    show = demo.RunProgress.on_step_end

    def interrupt(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        show(self, args, state, control, **kwargs)
        if state.global_step == 3 and self.metrics.effopd is not None:
            raise KeyboardInterrupt

    out = tmp_path / "interrupted"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(demo.RunProgress, "on_step_end", interrupt)
        demo.run_demo(out, quick=True)
    assert not (out / "summary.json").exists()
    assert (out / "runs" / RUNS[1] / "checkpoint-2").exists()
    capsys.readouterr()

    continued = demo.run_demo(out, quick=True)

    printed = capsys.readouterr().out
    assert "is finished" in printed  # the vanilla run
    assert "Continuing from" in printed
    for name in RUNS:
        assert without_times(rows_of(out, name)) == without_times(rows_of(tmp_path / "whole", name))
    for run, expected in zip(continued["runs"], whole["runs"], strict=True):
        assert run == expected
