"""The command line as a person meets it: what it calls, what it says, and its exit status."""

from pathlib import Path
from typing import Any

import pytest

from effopd import __version__, cli
from effopd.errors import DataError


def status_of(*argv: str) -> Any:
    try:
        return cli.main(argv)
    except SystemExit as exit_:
        return exit_.code


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of("--version") == 0
    assert __version__ in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "required: COMMAND"),
        (["fly"], "invalid choice: 'fly'"),
        (["demo", "--seeds", "0"], "0 is not at least 1"),
        (["demo", "--speed", "9"], "unrecognized arguments: --speed 9"),
        (["world", "build"], "required: --out"),
        (["train"], "required: CONFIG.yaml"),
    ],
)
def test_wrong_usage(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of(*argv) == 2
    assert message in capsys.readouterr().err


def test_train_errors_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run.yaml"
    for content, message in [
        (None, "no file"),
        (": :", "is not YAML"),
        ("- 1", "must map fields to values"),
        ("dataset_name: x\noutput_dir: y\n", "model_name_or_path"),
        (
            "model_name_or_path: a\ndataset_name: b\nlearning_rat: 3\nacceleration: none\nuse_cpu: true\nbf16: false\n",
            "learning_rat",
        ),
        ("model_name_or_path: a\ndataset_name: b\nacceleration: quick\n", "use 'none' or one of"),
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


def test_world_build_and_demo_are_called_as_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    monkeypatch.setattr("effopd.world.build_world", lambda *args, **kwargs: calls.append((args, kwargs)))
    monkeypatch.setattr("effopd.demo.run_demo", lambda *args, **kwargs: calls.append((args, kwargs)))
    assert status_of("world", "build", "--out", str(tmp_path), "--seed", "3") == 0
    assert status_of("demo", "--quick", "--learning-rate", "1e-4", "1e-3", "--out", str(tmp_path)) == 0
    assert calls[0] == ((tmp_path,), {"seed": 3})
    assert calls[1] == ((tmp_path,), {"seeds": 1, "learning_rates": [1e-4, 1e-3], "quick": True})


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [(DataError("the file is empty"), 1, "the file is empty"), (KeyboardInterrupt(), 130, "continues where")],
)
def test_errors_and_interruptions(
    error: BaseException, code: int, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise error

    monkeypatch.setattr("effopd.demo.run_demo", fail)
    assert status_of("demo") == code
    assert message in capsys.readouterr().err
