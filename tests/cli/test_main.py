"""Wrong usage, errors and interruptions, as every command has them."""

import subprocess
import sys
from typing import Any

import pytest
from cli.status import status_of
from safetensors import SafetensorError

from effopd import __version__
from effopd.errors import DataError


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of("--version") == 0
    assert __version__ in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "required: COMMAND"),
        (["fly"], "invalid choice: 'fly'"),
        (["demo", "--seeds", "0"], "got '0', expected a whole number of at least 1"),
        (["demo", "--seeds", "two"], "got 'two', expected a whole number of at least 1"),
        (["demo", "--speed", "9"], "unrecognized arguments: --speed 9"),
        (["world", "runs"], "required: --out"),
        (["train"], "required: CONFIG.yaml"),
    ],
)
def test_wrong_usage(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of(*argv) == 2
    assert message in capsys.readouterr().err


def test_as_a_module() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "effopd", "--version"], capture_output=True, text=True, check=True, timeout=60
    )
    assert result.stdout == f"effopd {__version__}\n"


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (DataError("the file is empty"), 1, "the file is empty"),
        (SafetensorError("I/O error: No space left on device (os error 28)"), 1, "No space left on device. What was"),
        (KeyboardInterrupt(), 130, "continues where"),
    ],
)
def test_errors_and_interruptions(
    error: BaseException, code: int, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise error

    monkeypatch.setattr("effopd.experiments.demo.run_demo", fail)
    assert status_of("demo") == code
    assert message in capsys.readouterr().err
