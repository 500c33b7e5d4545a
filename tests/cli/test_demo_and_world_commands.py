"""`effopd demo` and `effopd world` call the library as they were asked to."""

from pathlib import Path
from typing import Any

import pytest
from cli.status import status_of


def test_they_are_called_as_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    monkeypatch.setattr("effopd.world.build_world", lambda *args, **kwargs: calls.append((args, kwargs)))
    monkeypatch.setattr("effopd.experiments.demo.run_demo", lambda *args, **kwargs: calls.append((args, kwargs)))
    assert status_of("world", "build", "--out", str(tmp_path), "--seed", "3") == 0
    monkeypatch.setattr(
        "effopd.experiments.world_runs.world_runs", lambda *args, **kwargs: calls.append((args, kwargs))
    )
    assert status_of("world", "runs", "--out", str(tmp_path), "--seeds", "2") == 0
    assert status_of("demo", "--quick", "--learning-rate", "1e-4", "1e-3", "--out", str(tmp_path)) == 0
    assert calls[0] == ((tmp_path,), {"seed": 3})
    assert calls[1] == ((tmp_path,), {"seeds": 2})
    assert calls[2] == ((tmp_path,), {"seeds": 1, "learning_rates": [1e-4, 1e-3], "quick": True})


@pytest.mark.parametrize("rate", ["0", "-0.001", "nan", "inf"])
def test_a_rate_at_which_nothing_is_learned_is_refused_before_the_first_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], rate: str
) -> None:
    monkeypatch.setattr("effopd.experiments.demo.train", lambda *args: pytest.fail("a run was begun"))
    assert status_of("demo", "--out", str(tmp_path / "out"), "--learning-rate", "1e-3", rate) == 1
    assert f"learning_rates: got {float(rate)!r}, expected a finite number, above 0." in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_named_worlds_are_built_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[Any] = []
    monkeypatch.setattr("effopd.world.build_named_world", lambda *args: calls.append(args))
    assert status_of("world", "build", "--name", "facts") == 0
    assert status_of("world", "build", "--name", "facts", "--out", str(tmp_path)) == 0
    assert calls == [("facts", None), ("facts", tmp_path)]
    assert status_of("world", "build", "--name", "facts", "--seed", "1") == 1
    assert "leave --seed out" in capsys.readouterr().err
    assert status_of("world", "build") == 1
    assert "--name NAME" in capsys.readouterr().err
