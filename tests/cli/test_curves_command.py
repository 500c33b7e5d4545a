"""`effopd curves`: which points are drawn, and which evaluations are refused."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from scipy.stats import t as student_t

from effopd.cli import main
from effopd.curves import IN_TRAINING, draw_curves
from effopd.errors import ConfigurationError, DataError
from effopd.report import accuracy


def evaluation(
    directory: Path, mean: float, *, model: str = "checkpoint-10", task: str = "math500", **other: Any
) -> Path:
    """What `effopd evaluate` leaves, as far as it is read."""
    directory.mkdir(parents=True)
    summary = {"model": f"/gone/{model}", "task": task, "mean": mean, "interval": [mean - 0.1, mean + 0.1]}
    summary |= {"num_problems": 500, "task_digest": "d", "temperature": 1.0, "max_new_tokens": 64, "chat": True} | other
    (directory / "summary.json").write_text(json.dumps(summary))
    return directory


@pytest.fixture
def points(monkeypatch: pytest.MonkeyPatch) -> list[pd.DataFrame]:
    """Those drawn from now on; they are drawn too."""
    found: list[pd.DataFrame] = []
    draw = accuracy.draw_accuracy
    monkeypatch.setattr(accuracy, "draw_accuracy", lambda table: (found.append(table), draw(table))[1])
    return found


def test_runs_baselines_and_the_base_from_the_command_line(
    tmp_path: Path, points: list[pd.DataFrame], capsys: pytest.CaptureFixture[str]
) -> None:
    for task in ("math500", "aime24"):
        evaluation(tmp_path / "base" / task, 0.2, model="base", task=task)
        for step in (10, 20):
            evaluation(tmp_path / "opd" / str(step) / task, 0.2 + step / 50, model=f"checkpoint-{step}", task=task)
            evaluation(tmp_path / "rl" / str(step) / task, 0.9 - step / 50, model=f"checkpoint-{step}", task=task)
    teacher = evaluation(tmp_path / "teacher", 0.85, model="teacher")
    command = ["curves", "--run", f"OPD={tmp_path / 'opd'}", "--baseline", f"RL={tmp_path / 'rl'}"]
    command += [
        "--baseline",
        f"teacher={teacher}",
        "--base",
        str(tmp_path / "base"),
        "--out",
        str(tmp_path / "qwen2.5"),
    ]
    assert main(command) == 0
    table = points[0].set_index(["role", "name", "task", "step"]).sort_index()["accuracy"]
    assert table.loc["run", "OPD", "math500"].to_dict() == pytest.approx({0: 0.2, 10: 0.4, 20: 0.6})
    assert table.loc["run", "OPD", "aime24"].to_dict() == pytest.approx({0: 0.2, 10: 0.4, 20: 0.6})
    assert table.loc["baseline", "RL", "math500"].to_dict() == pytest.approx({20: 0.5})  # the last, not the best
    assert table.loc["baseline", "teacher", "math500"].to_dict() == pytest.approx({-1: 0.85})
    files = {path.name for path in tmp_path.iterdir() if path.is_file()}
    assert files == {"qwen2.5.svg", "qwen2.5.pdf", "qwen2.5.png", "qwen2.5.md"}
    assert "| math500 | RL (baseline) | 20 | 50.0 \\[40.0, 60.0\\] | 1 | 500 |" in (tmp_path / "qwen2.5.md").read_text()
    assert "qwen2.5.pdf" in capsys.readouterr().out.replace("\n", "")


def test_the_figure_has_a_panel_for_each_task_and_dashed_baselines(tmp_path: Path, points: list[pd.DataFrame]) -> None:
    for task in ("math500", "aime24"):
        for step in (10, 20):
            evaluation(tmp_path / "opd" / f"{task}{step}", 0.95, model=f"checkpoint-{step}", task=task)
    rl = evaluation(tmp_path / "rl", 0.7)
    draw_curves({"OPD": tmp_path / "opd"}, tmp_path / "out", baselines={"RL": rl})
    math, aime = accuracy.draw_accuracy(points[0]).axes[::-1]
    assert [math.get_title(loc="left"), aime.get_title(loc="left")] == ["math500", "aime24"]
    (line,) = [line for line in math.lines if line.get_label() == "RL, final"]
    assert list(line.get_ydata()) == [0.7, 0.7]
    assert line.get_linestyle() == "--"
    assert not [line for line in aime.lines if line.get_label() == "RL, final"]
    (bars,) = math.containers
    assert list(bars.lines[0].get_xdata()) == [10, 20]
    assert math.get_ylim()[1] == 1  # the bar reaches to 1.05 and is cut off
    assert [text.get_text() for text in math.figure.legends[0].get_texts()] == ["OPD", "RL, final"]


def test_seeds_are_averaged_with_an_interval_over_them(tmp_path: Path, points: list[pd.DataFrame]) -> None:
    values = (0.5, 0.6, 0.7)
    places = [evaluation(tmp_path / f"seed{index}", value) for index, value in enumerate(values)]
    draw_curves({"OPD": places}, tmp_path / "out")
    (point,) = points[0].to_dict("records")
    half = student_t.ppf(0.975, 2) * pd.Series(values).sem()
    assert [point["accuracy"], point["low"], point["high"]] == pytest.approx([0.6, 0.6 - half, 0.6 + half])
    assert point["evaluations"] == 3


def test_the_accuracies_of_a_training_run_count(tmp_path: Path, points: list[pd.DataFrame]) -> None:
    run = tmp_path / "run"
    run.mkdir()
    rows = [{"step": 1, "accuracy": None}, {"step": 2, "accuracy": 0.99, "accuracy_stderr": 0.01}]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    draw_curves({"OPD": run}, tmp_path / "out")
    (point,) = points[0].to_dict("records")
    assert (point["task"], point["step"], point["high"]) == (IN_TRAINING, 2, 1.0)
    assert point["low"] == pytest.approx(0.9704, abs=1e-4)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("task_digest", "e"),
        ("temperature", 0.0),
        ("max_new_tokens", 128),
        ("chat", False),
        ("system_prompt", "Be brief."),
        ("chat_template_kwargs", {"enable_thinking": False}),
    ],
)
def test_what_cannot_be_compared_is_refused(tmp_path: Path, field: str, value: Any) -> None:
    one = evaluation(tmp_path / "one", 0.5)
    other = evaluation(tmp_path / "other", 0.5, **{field: value})
    with pytest.raises(DataError, match=f"of math500 differ in {field}: .*evaluate all models in the same way"):
        draw_curves({"A": one}, tmp_path / "out", baselines={"B": other})
    assert not list(tmp_path.glob("out*"))


def test_runs_evaluated_on_other_data_in_training_are_refused(tmp_path: Path) -> None:
    def run(name: str, config: str | None) -> Path:
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.jsonl").write_text('{"step": 2, "accuracy": 0.5}\n')
        if config is not None:
            (tmp_path / name / "config.yaml").write_text(config)
        return tmp_path / name

    settings = "evaluation_dataset_name: world:test\nnum_evaluation_examples: 64\nlearning_rate: "
    unknown, one, like = run("unknown", None), run("one", f"{settings}1e-3"), run("like", f"{settings}1e-4")
    draw_curves({"A": unknown, "B": one, "C": like}, tmp_path / "out")  # of the first, nothing is known
    other = run("other", settings.replace("64", "65") + "1e-3")
    with pytest.raises(DataError, match=r"one/.* and .*other/.* differ in num_evaluation_examples: 64 and 65\. They"):
        draw_curves({"A": unknown, "B": one, "C": other}, tmp_path / "refused")
    with pytest.raises(DataError, match=r"(?s)config\.yaml cannot be read as settings of a run .* Mend the file"):
        draw_curves({"A": run("damaged", "a: [")}, tmp_path / "refused")


def test_what_is_no_evaluation_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no evaluation"):
        draw_curves({"A": tmp_path}, tmp_path / "out")
    with pytest.raises(DataError, match=r"step of the model is not known.*--base"):
        draw_curves({"A": evaluation(tmp_path / "a", 0.5, model="Qwen3-4B")}, tmp_path / "out")
    with pytest.raises(ConfigurationError, match="no run"):
        draw_curves({}, tmp_path / "out")
    assert main(["curves", "--run", "A=a", "--run", "A=b", "--out", str(tmp_path / "out")]) == 1


def test_seeds_of_a_baseline_may_end_at_different_steps(tmp_path: Path, points: list[pd.DataFrame]) -> None:
    opd = evaluation(tmp_path / "opd", 0.5)
    for seed, (last, mean) in enumerate(((100, 0.9), (90, 0.3))):
        for step in (10, last):
            evaluation(tmp_path / f"rl{seed}" / str(step), mean if step == last else 0.1, model=f"checkpoint-{step}")
    draw_curves({"OPD": opd}, tmp_path / "out", baselines={"RL": [tmp_path / "rl0", tmp_path / "rl1"]})
    (rl,) = points[0][points[0]["role"] == "baseline"].to_dict("records")
    assert (rl["step"], rl["accuracy"], rl["evaluations"]) == (100, pytest.approx(0.6), 2)


def test_a_base_of_several_steps_and_an_output_without_a_name_are_refused(tmp_path: Path) -> None:
    for step in (10, 20):
        evaluation(tmp_path / "opd" / str(step), 0.5, model=f"checkpoint-{step}")
    with pytest.raises(DataError, match=r"--base .*got evaluations of steps 10, 20; expected"):
        draw_curves({"OPD": tmp_path / "opd"}, tmp_path / "out", base=tmp_path / "opd")
    with pytest.raises(ConfigurationError, match="has no name for files"):
        draw_curves({"OPD": tmp_path / "opd"}, ".")


def test_seeds_that_agree_by_chance_keep_the_interval_over_problems(tmp_path: Path, points: list[pd.DataFrame]) -> None:
    seeds = [evaluation(tmp_path / name, 0.4) for name in ("a", "b")]
    draw_curves({"OPD": seeds}, tmp_path / "out")
    (point,) = points[0].to_dict("records")
    assert (point["low"], point["high"]) == (pytest.approx(0.3), pytest.approx(0.5))
