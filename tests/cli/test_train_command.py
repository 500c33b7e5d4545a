"""`effopd train`: which values a file and the command line may have, and what is said of wrong ones."""

import os
from pathlib import Path
from typing import Any

import pytest
from cli.status import status_of

RUN = "model_name_or_path: world:base\ndataset_name: world:train\nacceleration: none\nuse_cpu: true\nbf16: false\n"


@pytest.mark.parametrize(
    ("line", "overrides", "message"),
    [
        ("max_steps: 2.5", [], "max_steps: got 2.5, expected a whole number"),
        ("max_steps: true", [], "max_steps: got True, expected a whole number"),
        ("learning_rate: fast", [], "learning_rate: got 'fast', expected a number"),
        ("learning_rate:", [], "learning_rate: got None, expected a number"),
        ("learning_rate: -1", [], "learning_rate: got -1, expected a finite number, at least 0"),
        ("learning_rate: .nan", [], "learning_rate: got nan"),
        (
            "per_device_train_batch_size: 0",
            [],
            "per_device_train_batch_size: got 0, expected a finite number, at least 1",
        ),
        ("temperature: 0", [], "temperature: got 0, expected a finite number, above 0"),
        ("top_p: 2", [], "top_p: got 2, expected a finite number, above 0 and at most 1"),
        ("fp16: [1]", [], "fp16: got [1], expected true or false"),
        ("run_name: 2026-01-01", [], "run_name: got datetime.date(2026, 1, 1), expected text (in quotes"),
        (
            "save_strategy: no",
            [],
            "save_strategy: got False, expected one of 'no', 'steps', 'epoch', 'best', in quotes",
        ),
        ("reward: 3", [], "reward: got 3, expected a list of texts"),
        ("extrapolation: [1]", [], "extrapolation: got [1], expected settings by name"),
        ("learning_rat: 3", [], "there is no field 'learning_rat'; did you mean learning_rate?"),
        ("method: ppo2", [], "method: got 'ppo2', expected one of opd, exopd, alphaopd, grpo, dapo, ppo."),
        ("", ["--method", "ppo2", "--num_generations", "8"], "method: got 'ppo2', expected one of opd"),
        ("7: 3", [], "there is no field '7'; docs/training.md has the fields"),
        (
            "",
            ["--learnin-rate", "3"],
            "The command line: there is no field '--learnin-rate'; did you mean learning_rate?",
        ),
        ("", ["--learning_rat", "3"], "there is no field '--learning_rat'"),
        ("", ["--learning_rate", "fast"], "argument --learning_rate: invalid float value: 'fast'"),
        ("", ["--learning_rate"], "argument --learning_rate: expected one argument"),
        ("reward: world\nevaluation_dataset_name: world:evaluation\ntarget_accuracy: 95", [], "For 95 %, write 0.95"),
        (
            "reward: world\nevaluation_dataset_name: world:evaluation\ntarget_accuracy: 0.95",
            [],
            "target_accuracy=0.95 has no effect while eval_strategy is 'no'",
        ),
    ],
)
def test_wrong_values_and_names(
    line: str, overrides: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(RUN + line + "\n")
    assert status_of("train", str(path), *overrides) == 1
    error = capsys.readouterr().err
    assert error.startswith("effopd: ")
    assert message in error
    assert error.count("\n") == 1
    if not overrides:
        assert str(path) in error


def test_what_yaml_and_trl_read_as_numbers_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr("effopd.training.run.train", lambda *args: seen.extend(args))
    path = tmp_path / "run.yaml"
    path.write_text(
        f"{RUN}learning_rate: 1e-4\nwarmup_steps: 3\nmax_steps: '7'\ntf32: null\nreward: world\nseed: 2\n"
        "model_init_kwargs: {dtype: float32}\nenv: {EFFOPD_TEST: 1}\n"
        "lr_scheduler_type: cosine_with_min_lr\nlr_scheduler_kwargs: {min_lr: 1e-7}\n"
    )
    monkeypatch.setenv("EFFOPD_TEST", "0")
    assert status_of("train", str(path), "--num-train-examples", "none") == 0
    arguments, config = seen
    assert (config.learning_rate, config.warmup_steps, config.max_steps, config.seed) == (1e-4, 3, 7, 2)
    assert config.model_init_kwargs == {"dtype": "float32"}
    assert config.lr_scheduler_kwargs == {"min_lr": 1e-7}
    assert os.environ["EFFOPD_TEST"] == "1"
    assert (arguments.reward, arguments.num_train_examples) == (["world"], None)


def test_train_errors_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run.yaml"
    for content, message in [
        (None, "no file"),
        (": :", "cannot be read as YAML"),
        ("- 1", "must map fields to values"),
        ("model_name_or_path: a\ndataset_name: b\nenv: [A]\n", "expected environment variables by name"),
        ("dataset_name: x\noutput_dir: y\n", "model_name_or_path"),
        (
            "model_name_or_path: a\ndataset_name: b\nlearning_rat: 3\nacceleration: none\nuse_cpu: true\nbf16: false\n",
            "learning_rat",
        ),
        ("model_name_or_path: a\ndataset_name: b\nacceleration: quick\n", "expected one of none, paper"),
        ("model_name_or_path: a\ndataset_name: b\nacceleration: none\nbeta: 7\nuse_cpu: true\nbf16: false\n", "beta"),
    ]:
        if content is not None:
            path.write_text(content)
        assert status_of("train", str(path)) == 1
        err = capsys.readouterr().err
        assert err.startswith("effopd: "), err
        assert message in err
        assert "Traceback" not in err


def test_overrides_reach_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr("effopd.training.run.train", lambda *args: seen.extend(args))
    assert status_of("train", "world", "--learning_rate", "0.5", "--output_dir", str(tmp_path)) == 0
    arguments, config = seen
    assert arguments.model_name_or_path == "world:base"
    assert config.learning_rate == 0.5
    assert config.output_dir == str(tmp_path)
